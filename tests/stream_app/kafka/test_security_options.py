"""Security of the connection to Kafka, without a broker: secrets, mistakes in the settings, files, tokens."""

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from aiohttp import web
from aiokafka.protocol.admin import SaslAuthenticateRequest_v1

from stream_app.commands.worker import worker
from stream_app.errors import SettingsError
from stream_app.kafka.errors import TokenError
from stream_app.kafka.security import SecurityError, identity, kafka_options, tokens
from stream_app.kafka.security.options import tls_context
from stream_app.settings import Settings, fields, load_settings
from stream_app.settings.kafka import KafkaAccess
from stream_app.settings.sources import Secret
from stream_app.worker.transport.credentials import faust_credentials
from tests.stream_app.certificates import self_signed

SECRETS = [field for field in fields() if field.secret]
SCRAM = {"security_protocol": "SASL_SSL", "sasl_mechanism": "SCRAM-SHA-512", "sasl_user": "u"}
OAUTH = {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}
CLIENT = {
    "oauth_token_url": "https://id.shop/token",
    "oauth_client_id": "c",
    "oauth_client_secret": "hunter2",
}


def env_of(values: dict[str, Any]) -> dict[str, str]:
    return {f"FORECLICK_KAFKA_{name.upper()}": str(value) for name, value in values.items()}


def settings_of(**values: Any) -> Settings:
    return load_settings(env=env_of(values))


def problems(**values: Any) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        settings_of(**values)
    return caught.value.problems


# --- secrets


def test_there_are_secrets() -> None:
    """The tests below cover at least the password, the key's password and the client secret."""
    names = {field.name for field in SECRETS}
    assert {"kafka_sasl_password", "kafka_ssl_key_password", "kafka_oauth_client_secret"} <= names
    assert {f"{name}_file" for name in names} <= {field.name for field in fields()}


def test_a_secret_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    """Neither the settings nor objects with them show a password, in any text form."""
    settings = settings_of(**SCRAM, sasl_password="hunter2")
    secret = settings.kafka.sasl_password
    assert secret is not None and secret.reveal() == "hunter2"
    logging.getLogger("x").warning("%s %r", settings, [secret])
    shown = [repr(settings), str(secret), f"{secret}", f"{secret!r:>9}", f"{[secret]}", caplog.text]
    assert [text for text in shown if "hunter2" in text] == []
    with pytest.raises(TypeError):
        msgspec.json.encode(settings.kafka)
    assert secret == Secret("hunter2") != Secret("hunter3")


def test_a_secret_comes_from_a_file(tmp_path: Path) -> None:
    """The file's text is the secret, with spaces, but without the final line break."""
    file = tmp_path / "password"
    for written, read in (("a b \n", "a b "), (" x", " x"), ("y\r\n", "y"), ("z\n\n", "z\n")):
        file.write_bytes(written.encode())
        secret = settings_of(**SCRAM, sasl_password_file=file).kafka.sasl_password
        assert secret is not None and secret.reveal() == read


@pytest.mark.parametrize(
    ("content", "what"),
    [(None, "cannot be read (No such"), (b"\n", "is empty"), (b"\xff", "does not contain text")],
)
def test_a_file_without_a_secret(tmp_path: Path, content: bytes | None, what: str) -> None:
    """A missing, an empty and a binary file are reported with the names of variable and file."""
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    (problem,) = problems(**SCRAM, sasl_password_file=file)
    assert problem.startswith(f"FORECLICK_KAFKA_SASL_PASSWORD_FILE: {file} {what}")


def test_a_secret_in_two_places() -> None:
    """Variable and file together are a mistake, since it would be unclear which one counts."""
    (problem,) = problems(**SCRAM, sasl_password="hunter2", sasl_password_file="/nowhere")
    assert problem == (
        "FORECLICK_KAFKA_SASL_PASSWORD and FORECLICK_KAFKA_SASL_PASSWORD_FILE are both given: remove one of them"
    )


def test_no_secret_in_a_file_of_settings_or_in_an_option(tmp_path: Path) -> None:
    """A secret as an option or in the file is refused without repeating it; the message names the right place."""
    file = tmp_path / "f.toml"
    file.write_text('[kafka]\nsasl_password = "hunter2"\n')
    with pytest.raises(SettingsError) as caught:
        load_settings(file, {}, {"kafka_sasl_password": "hunter2"})
    first, second = caught.value.problems
    assert (
        "key kafka.sasl_password, would contain a secret: set the variable FORECLICK_KAFKA_SASL_PASSWORD"
        in first
    )
    assert "name a file that contains it with kafka.sasl_password_file" in first
    assert "FORECLICK_KAFKA_SASL_PASSWORD, or --kafka-sasl-password-file" in second
    assert "hunter2" not in str(caught.value)


def test_no_command_has_an_option_for_a_secret() -> None:
    """The worker has an option for each setting, but none for a secret, only for its file."""
    app = typer.Typer()
    app.command()(worker)
    options = {option for each in typer.main.get_command(app).params for option in each.opts}
    for field in SECRETS:
        assert f"{field.option}-file" in options
        assert field.option not in options


def test_a_secret_that_cannot_be_one() -> None:
    """A password with a NUL, which would end it in the login, is refused without repeating it."""
    (problem,) = problems(**SCRAM, sasl_password="hunter2\0x")
    assert "not shown" in problem and "hunter2" not in problem


# --- settings that do not fit together


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"sasl_password": "x"}, "SASL_PASSWORD is given but would not be used"),
        ({"ssl_ca_file": "ca.pem"}, "SECURITY_PROTOCOL is PLAINTEXT: set it to SSL or SASL_SSL"),
        (
            {**SCRAM, "security_protocol": "SSL", "sasl_password": "x"},
            "SECURITY_PROTOCOL is SSL: set it to SASL_",
        ),
        ({"security_protocol": "SASL_SSL"}, "SASL_MECHANISM is required"),
        (
            {**SCRAM},
            "FORECLICK_KAFKA_SASL_PASSWORD (or FORECLICK_KAFKA_SASL_PASSWORD_FILE) must be set for SCRAM",
        ),
        ({**SCRAM, "sasl_user": "", "sasl_password": "x"}, "FORECLICK_KAFKA_SASL_USER must be set"),
        ({"security_protocol": "SSL", "ssl_key_file": "k"}, "SSL_KEY_FILE is given without"),
        (OAUTH, "needs one of FORECLICK_KAFKA_OAUTH_TOKEN_FILE"),
        ({**OAUTH, **CLIENT, "oauth_token_file": "t"}, "needs one of FORECLICK_KAFKA_OAUTH_TOKEN_FILE"),
        ({**OAUTH, "oauth_token_url": "https://id.shop"}, "OAUTH_CLIENT_SECRET (or its _FILE) are needed"),
        (
            {**SCRAM, "sasl_password": "x", "oauth_scope": "s"},
            "SASL_MECHANISM is SCRAM-SHA-512: set it to OAUTH",
        ),
    ],
)
def test_settings_that_do_not_fit(values: dict[str, Any], wanted: str) -> None:
    """One sentence names the variable and the remedy; a setting that would not be used is a mistake."""
    (problem,) = problems(**values)
    assert wanted in problem


@pytest.mark.parametrize(
    "url", ["http://id.shop/token", "ftp://id.shop", "https://", "https://[", "http://127.0.0.1.shop/"]
)
def test_a_client_secret_is_not_sent_in_the_clear(url: str) -> None:
    """The client secret is sent only over https, or to this machine."""
    (problem,) = problems(**{**OAUTH, **CLIENT, "oauth_token_url": url})
    assert "FORECLICK_KAFKA_OAUTH_TOKEN_URL" in problem and "begins with https://" in problem


def test_empty_variables_are_none() -> None:
    """Empty variables, as a compose file leaves them, count as unset."""
    names = (name for name in KafkaAccess.__struct_fields__ if name != "security_protocol")
    assert settings_of(**dict.fromkeys(names, "")) == Settings()


# --- what clients get


def test_options_of_a_plain_client() -> None:
    """Without any setting, clients have only brokers and no security."""
    assert kafka_options(Settings()) == {
        "bootstrap_servers": ["127.0.0.1:9092"], "security_protocol": "PLAINTEXT"
    }  # fmt: skip
    assert faust_credentials(Settings()) is None


@pytest.mark.parametrize(
    ("values", "who"),
    [
        ({"security_protocol": "SSL"}, "a client without login"),
        ({**SCRAM, "sasl_password": "hunter2"}, "user u"),
        ({**SCRAM, "sasl_password": "hunter2", "security_protocol": "SASL_PLAINTEXT"}, "user u"),
        ({**OAUTH, "oauth_token_file": "t"}, "the holder of the token"),
        ({**OAUTH, **CLIENT}, "the holder of the token"),
    ],
)
def test_faust_gets_the_same_options(values: dict[str, Any], who: str) -> None:
    """Faust's consumer and producer connect with the same options as all other clients, and show no secret."""
    from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

    settings = settings_of(**values)
    credentials = faust_credentials(settings)
    ours, theirs = kafka_options(settings), dict(credentials_to_aiokafka_auth(credentials))
    assert theirs["security_protocol"] == values["security_protocol"]
    assert (theirs.get("ssl_context") is None) == ("ssl_context" not in ours)
    for key in ("sasl_mechanism", "sasl_plain_username", "sasl_plain_password"):
        assert theirs.get(key) == ours.get(key)
    assert type(theirs.get("sasl_oauth_token_provider")) is type(ours.get("sasl_oauth_token_provider"))
    assert "hunter2" not in repr(credentials)
    assert identity(settings.kafka) == who


def test_requests_that_log_in_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """At the level "debug", all requests of aiokafka are logged except the one with the password."""
    kafka_options(settings_of(**SCRAM, sasl_password="hunter2"))
    log = logging.getLogger("aiokafka.conn")
    with caplog.at_level(logging.DEBUG, "aiokafka.conn"):
        log.debug("Request to %s:%d %d: %s", "h", 1, 2, SaslAuthenticateRequest_v1(b"\0u\0hunter2"))
        log.debug("Request to %s:%d %d: %s", "h", 1, 3, "another")
    assert "hunter2" not in caplog.text
    assert "3: another" in caplog.text


# --- files of TLS


def test_files_of_tls(tmp_path: Path) -> None:
    """Each unusable file is named, with the reason."""
    mine, other = self_signed(tmp_path / "a"), self_signed(tmp_path / "b")
    locked = self_signed(tmp_path / "c", b"hunter2")
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    missing = tmp_path / "none.pem"

    def said(**files: Any) -> str:
        with pytest.raises(SecurityError) as caught:
            tls_context(settings_of(security_protocol="SSL", **files).kafka)
        return str(caught.value).replace("FORECLICK_KAFKA_", "")

    assert said(ssl_ca_file=missing) == f"SSL_CA_FILE: {missing} cannot be read (No such file or directory)"
    assert said(ssl_ca_file=junk) == f"SSL_CA_FILE: {junk} holds no certificate as PEM"
    assert said(ssl_cert_file=missing).startswith(f"SSL_CERT_FILE: {missing} cannot be read")
    assert said(ssl_cert_file=mine.cert, ssl_key_file=missing).startswith(
        f"SSL_KEY_FILE: {missing} cannot be"
    )
    assert "hold no certificate and key" in said(ssl_cert_file=junk, ssl_key_file=mine.key)
    assert "hold no certificate and key" in said(ssl_cert_file=mine.cert, ssl_key_file=junk)
    assert "does not belong to" in said(ssl_cert_file=mine.cert, ssl_key_file=other.key)
    locked_files = {"ssl_cert_file": locked.cert, "ssl_key_file": locked.key}
    assert "SSL_KEY_PASSWORD (or its _FILE) is needed for the key" in said(**locked_files)
    wrong = said(**locked_files, ssl_key_password="hunter3")
    assert "is wrong for the key" in wrong and "hunter3" not in wrong
    tls_context(settings_of(security_protocol="SSL", **locked_files, ssl_key_password="hunter2").kafka)


def test_a_key_that_cannot_be_read(tmp_path: Path) -> None:
    """A key that exists but cannot be read is reported with the system's reason."""
    mine = self_signed(tmp_path)
    mine.key.unlink()
    mine.key.mkdir()  # unlike missing rights, this stops root too
    access = settings_of(security_protocol="SSL", ssl_cert_file=mine.cert, ssl_key_file=mine.key).kafka
    with pytest.raises(SecurityError, match=r"SSL_KEY_FILE: \S+ cannot be read \(Is a directory"):
        tls_context(access)


# --- tokens

Handler = Callable[[web.Request], Any]


@asynccontextmanager
async def endpoint(handler: Handler) -> AsyncIterator[str]:
    """The URL of a local token endpoint."""
    application = web.Application()
    application.router.add_post("/token", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        yield f"http://127.0.0.1:{port}/token"
    finally:
        await runner.cleanup()


def provider(url: str, **more: Any) -> Any:
    """Return the token provider of the clients."""
    values = {**OAUTH, **CLIENT, "oauth_token_url": url, **more}
    return kafka_options(settings_of(**values))["sasl_oauth_token_provider"]


async def test_a_token_file_is_read_each_time(tmp_path: Path) -> None:
    """The next connection uses a renewed token; a missing or broken file is reported by name."""
    file = tmp_path / "token"
    options = kafka_options(settings_of(**OAUTH, oauth_token_file=file))
    tokens_of = options["sasl_oauth_token_provider"]
    for text in ("abc.def-1", "x.y.z==\n"):
        file.write_text(text)
        assert await tokens_of.token() == text.strip()
    for wrong in ("", "two words", "a\nb", "a\x01b"):
        file.write_text(wrong)
        with pytest.raises(TokenError, match="holds no token"):
            await tokens_of.token()
    file.unlink()
    with pytest.raises(TokenError, match="cannot be read \\(No such file"):
        await tokens_of.token()


async def test_a_token_endpoint_is_asked_once_in_a_while() -> None:
    """Client id and secret are sent with Basic; the token is used until it expires, then a new one is fetched."""
    asked: list[dict[str, Any]] = []

    async def give(request: web.Request) -> web.Response:
        asked.append({**await request.post(), "login": request.headers["Authorization"]})
        return web.json_response(
            {"access_token": f"t{len(asked)}", "expires_in": 3600 if len(asked) > 1 else 0}
        )

    async with endpoint(give) as url:
        from_url = provider(url, oauth_scope="kafka write")
        got = [await from_url.token() for _ in range(4)]
    assert got == ["t1", "t2", "t2", "t2"]
    login = f"Basic {base64.b64encode(b'c:hunter2').decode()}"
    assert asked[0] == {"grant_type": "client_credentials", "scope": "kafka write", "login": login}


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ({"status": 401, "text": '{"error": "invalid_client"}'}, "status 401 (invalid_client)"),
        ({"status": 500, "text": "no JSON, but hunter2"}, "status 500: check"),
        ({"status": 400, "text": '{"error": "hunter2 is wrong"}'}, "status 400: check"),
        ({"status": 302, "headers": {"Location": "http://127.0.0.1:1/"}}, "status 302"),
        ({"text": "{}"}, "without an access_token"),
        ({"text": '{"access_token": "a\\u0001b"}'}, "sent a token that is none"),
        ({"text": " " * 100_000}, "sent more than"),
    ],
)
async def test_a_token_endpoint_that_refuses(answer: dict[str, Any], wanted: str) -> None:
    """A refusal is reported with status and code, without the body, which may repeat the secret; no redirects."""

    async def refuse(_: web.Request) -> web.Response:
        return web.Response(**answer)

    async with endpoint(refuse) as url:
        with pytest.raises(TokenError) as caught:
            await provider(url).token()
    assert wanted in str(caught.value) and url in str(caught.value)
    assert "hunter2" not in str(caught.value)


async def test_a_token_endpoint_that_is_away_or_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed port is reported immediately; a very slow answer is given up after the total limit."""
    with pytest.raises(TokenError, match=r"cannot be reached \(.*(refused|Connect)"):
        await provider("http://127.0.0.1:1/token").token()
    monkeypatch.setattr(tokens, "ENDPOINT_LIMIT_S", 0.5)

    async def trickle(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        for _ in range(100):
            await answer.write(b" ")
            await asyncio.sleep(0.1)
        return answer

    async with endpoint(trickle) as url:
        with pytest.raises(TokenError, match="gave no answer within"):
            async with asyncio.timeout(5):
                await provider(url).token()
