"""TLS, logins and rights with a real broker: the working cases, and the errors of the others."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from stream_app.contract.topics import SHOP
from stream_app.kafka.security import SecurityError
from stream_app.kafka.topics import check_topics, ensure_topics
from stream_app.lab.generator import GeneratorSettings, write
from stream_app.settings import Settings
from tests.integration.harness import Start, clicks, make_topics, produce
from tests.integration.secure_broker import PASSWORD, Authority, SecureKafka, unsecured_token
from tests.integration.security_helpers import answers_all, run, settings_of

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """A valid token of oscar, who has all rights."""
    file = tmp_path / "token"
    file.write_text(unsecured_token("oscar"))
    return file


@pytest.fixture
def token_url() -> Iterator[str]:
    """A token endpoint on this machine that knows one client."""

    class Endpoint(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            known = self.headers["Authorization"] == "Basic c2hvcDpodW50ZXIy"  # shop:hunter2
            body = {"access_token": unsecured_token("oscar"), "expires_in": 3600}
            self.send_response(200 if known else 401)
            self.end_headers()
            self.wfile.write(json.dumps(body if known else {"error": "invalid_client"}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Endpoint) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/token"
        finally:
            server.shutdown()
            thread.join(10)


def oauth(kafka: SecureKafka, **more: Any) -> dict[str, Any]:
    """Return the settings of a client with a token."""
    return {
        "kafka_security_protocol": "SASL_SSL",
        "kafka_ssl_ca_file": kafka.authority.cert,
        "kafka_sasl_mechanism": "OAUTHBEARER",
        **more,
    }


# --- it works


@pytest.mark.parametrize("way", ["certificate", "scram", "token file", "token endpoint"])
async def test_a_worker_over_a_safe_connection(
    secure: SecureKafka, prefix: str, start: Start, tmp_path: Path, way: str,
    password_file: Path, token_file: Path, token_url: str,
) -> None:  # fmt: skip
    """Over TLS, with each way to log in, a worker answers and commits all events, and reads its state back."""
    settings, brokers = {
        "certificate": (secure.tls_settings(), secure.tls),
        "scram": (secure.login_settings() | {"kafka_sasl_password_file": password_file}, secure.login),
        "token file": (oauth(secure, kafka_oauth_token_file=token_file), secure.login),
        "token endpoint": (
            oauth(
                secure,
                kafka_oauth_token_url=token_url,
                kafka_oauth_client_id="shop",
                kafka_oauth_client_secret="hunter2",
            ),
            secure.login,
        ),
    }[way]
    await make_topics(secure.plain, prefix)
    worker = start(tmp_path / "w", brokers, prefix, **settings, log_level="debug").wait_ready()
    await asyncio.to_thread(answers_all, secure, prefix, worker)
    pages = [str(worker.get(path)) for path in ("/metrics", "/health/ready", "/health/live", "/users/u0-0/")]
    assert worker.stop() == 0
    shown = "\n".join([worker.text(), *pages])
    # The checks below would find nothing in a log without debug messages of the Kafka client.
    assert "Request to 127.0.0.1" in shown
    for secret in (
        PASSWORD,
        PASSWORD[:7],
        "sesame",
        "hunter2",
        "c2hvcDpodW50ZXIy",
        token_file.read_text()[20:60],
    ):
        assert secret not in shown, [line for line in shown.splitlines() if secret in line][:3]


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_each_mechanism_with_a_password(secure: SecureKafka, prefix: str, mechanism: str) -> None:
    """Topics can be created and described after a login by each mechanism."""
    password = "plain-alice" if mechanism == "PLAIN" else PASSWORD
    login = secure.login_settings(mechanism=mechanism)
    settings = settings_of(secure.login, prefix, **login, kafka_sasl_password=password)
    assert len(await ensure_topics(settings, SHOP.of(settings))) == 7
    assert await check_topics(settings, SHOP.of(settings)) == []


async def test_a_login_in_the_clear(secure: SecureKafka, prefix: str) -> None:
    """A port with a login and no TLS can be used too."""
    login = secure.login_settings() | {"kafka_security_protocol": "SASL_PLAINTEXT", "kafka_ssl_ca_file": ""}
    settings = settings_of(secure.clear, prefix, **login, kafka_sasl_password=PASSWORD)
    assert len(await ensure_topics(settings, SHOP.of(settings))) == 7


# --- it fails, with the reason

NO_CA = {"kafka_ssl_ca_file": ""}


async def said(settings: Settings) -> str:
    """Return the error of a refused client, which comes before the time limit."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(SecurityError) as caught:
        await check_topics(settings, SHOP.of(settings), wait_s=30)
    assert loop.time() - began < 20
    text = str(caught.value)
    assert "\n" not in text
    return text.replace("FORECLICK_", "").replace("KAFKA_", "")


async def test_certificates_that_do_not_fit(secure: SecureKafka, prefix: str, tmp_path: Path) -> None:
    """Errors for an unknown authority on either side, another name, and a missing client certificate."""
    strangers = Authority(tmp_path / "strangers", "strangers")
    theirs = strangers.issue("worker")

    async def tls(**changed: Any) -> str:
        brokers = changed.pop("brokers", secure.tls)
        return await said(settings_of(brokers, prefix, **{**secure.tls_settings(), **changed}))

    untrusted = f"the certificate of the broker at {secure.tls} is not trusted (unable to get local issuer"
    assert untrusted in await tls(kafka_ssl_ca_file=strangers.cert)
    assert untrusted in await tls(**NO_CA)
    assert "set SSL_CA_FILE to the certificate of the authority" in await tls(**NO_CA)
    named = secure.tls.replace("127.0.0.1", "localhost")
    assert "is not who its certificate names" in await tls(brokers=named)
    refused = await tls(kafka_ssl_cert_file=theirs.cert, kafka_ssl_key_file=theirs.key)
    assert "does not accept our certificate (certificate unknown): see SSL_CERT_FILE" in refused
    none = await tls(kafka_ssl_cert_file="", kafka_ssl_key_file="")
    assert "asks for a certificate (certificate required): see SSL_CERT_FILE" in none


async def test_logins_that_are_refused(secure: SecureKafka, prefix: str, tmp_path: Path) -> None:
    """Errors for a wrong password, an unknown user, an unsupported mechanism, and an expired or missing token."""

    async def login(brokers: str = secure.login, **changed: Any) -> str:
        chosen = secure.login_settings() | {"kafka_sasl_password": "wrong-one"} | changed
        text = await said(settings_of(brokers, prefix, **chosen))
        assert "wrong-one" not in text
        return text

    for mechanism in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        refused = await login(kafka_sasl_mechanism=mechanism)
        assert f"refuses the login of user alice by {mechanism}: wrong user or password" in refused
    assert "login of user nobody by" in await login(kafka_sasl_user="nobody", kafka_sasl_password=PASSWORD)
    clear = {"kafka_security_protocol": "SASL_PLAINTEXT", **NO_CA, "kafka_sasl_mechanism": "SCRAM-SHA-256"}
    offered = (
        f"the broker at {secure.clear} does not offer SCRAM-SHA-256 but SCRAM-SHA-512: set SASL_MECHANISM"
    )
    assert offered in await login(secure.clear, **clear)
    token = tmp_path / "token"
    with_token = settings_of(secure.login, prefix, **oauth(secure, kafka_oauth_token_file=token))
    assert await said(with_token) == (
        f"the token file {token} cannot be read (No such file or directory): see OAUTH_TOKEN_FILE"
    )
    token.write_text(unsecured_token("oscar", -60))
    assert f"the broker at {secure.login} refuses the token" in await said(with_token)


async def test_a_protocol_that_the_port_does_not_speak(secure: SecureKafka, prefix: str) -> None:
    """A client without TLS on a TLS port, or the reverse, with and without login, gets the right value named."""

    async def to(brokers: str, **chosen: Any) -> str:
        text = await said(settings_of(brokers, prefix, **chosen))
        assert brokers in text
        return text.partition(",")[0].partition(" on this port: ")[2]

    login = secure.login_settings() | {"kafka_sasl_password": PASSWORD}
    clear = login | {"kafka_security_protocol": "SASL_PLAINTEXT", **NO_CA}
    tls = secure.tls_settings()
    assert await to(secure.tls) == "set SECURITY_PROTOCOL to SSL"
    assert await to(secure.login, **clear) == "set SECURITY_PROTOCOL to SASL_SSL"
    assert await to(secure.clear) == "set SECURITY_PROTOCOL to SASL_PLAINTEXT"
    assert await to(secure.plain, **tls) == "set SECURITY_PROTOCOL to PLAINTEXT"
    assert await to(secure.clear, **login) == "set SECURITY_PROTOCOL to SASL_PLAINTEXT"
    assert await to(secure.plain, **clear) == "set SECURITY_PROTOCOL to PLAINTEXT"
    assert await to(secure.login, **tls) == "set SECURITY_PROTOCOL to SASL_SSL"


COMMANDS = ["worker", "topics", "tail flags", "replay R", "record R.new"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_password_in_each_command(
    secure: SecureKafka, prefix: str, tmp_path: Path, command: str
) -> None:
    """Each command ends with exit code 1 and one sentence; its output at the level debug never has the password."""
    recording = tmp_path / "R"
    write(GeneratorSettings(events=100, users=20, items=20, categories=5), recording, lambda _: None)
    words = [word.replace("R", str(recording)) for word in command.split()]
    wrong = f"x{PASSWORD}"
    for mechanism in ("PLAIN", "SCRAM-SHA-512")[: 2 if command == "worker" else 1]:
        login = secure.login_settings(mechanism=mechanism) | {"kafka_sasl_password": wrong}
        code, text = run(words, secure.login, prefix, tmp_path, **login)
        assert code == 1, text
        assert "Traceback" not in text
        last = text.strip().splitlines()[-1]
        assert last.startswith(f"foreclick: the broker at {secure.login} refuses the login of user alice by")
        for part in (wrong, "hunter2", "sesame", "%41"):
            assert part not in text
        assert command != "worker" or "Request to 127.0.0.1" in text  # the log has debug messages


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_each_short_command_over_a_safe_connection(
    secure: SecureKafka, prefix: str, tmp_path: Path, command: str, password_file: Path
) -> None:
    """The commands besides the worker accept the same settings: topics, replay, record and tail work."""
    asyncio.run(make_topics(secure.plain, prefix))
    recording = tmp_path / "R"
    write(GeneratorSettings(events=100, users=20, items=20, categories=5), recording, lambda _: None)
    words = [word.replace("R", str(recording)) for word in command.split()]
    if command.startswith("tail"):
        produce(secure.plain, prefix, [clicks(1)[0]._replace(topic="flags")])
        words += ["--from-beginning", "--limit", "1", "--json"]
    elif command.startswith("record"):
        produce(secure.plain, prefix, clicks(100))
    login = secure.login_settings() | {"kafka_sasl_password_file": password_file}
    code, text = run(words, secure.login, prefix, tmp_path, **login)
    assert code == 0, text
    assert {"topics": f"{prefix}clicks", "tail": "u0-0", "replay": "100 records", "record": "100 records"}[
        command.split(maxsplit=1)[0]
    ] in text
