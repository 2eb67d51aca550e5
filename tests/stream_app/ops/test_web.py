"""The worker's web port as a client sees it: a real server, real TLS; access rights and refusals."""

import asyncio
import http.client
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import faust
import pytest

from stream_app.errors import SettingsError
from stream_app.ops.access import Access, is_loopback
from stream_app.ops.health import Health
from stream_app.ops.metrics import Metrics
from stream_app.ops.web import add_pages, web_options
from stream_app.processing.shop_processor import ShopProcessor
from stream_app.settings import Settings, load_settings
from tests.integration.harness import free_port
from tests.stream_app.certificates import self_signed

TOKEN = "a-token-of-this-test-0123456789"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
USER = "/users/somebody/"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str


class Port:
    """The web port of a worker."""

    def __init__(self, number: int, tls: ssl.SSLContext | None = None) -> None:
        self.number, self.tls = number, tls

    async def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Return the answer to one request; header names have `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await asyncio.to_thread(self._get, path, method, named)

    def _get(self, path: str, method: str, headers: dict[str, str]) -> Answer:
        if self.tls is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.number, timeout=20)
        else:
            connection = http.client.HTTPSConnection("127.0.0.1", self.number, timeout=20, context=self.tls)
        try:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read().decode())
        finally:
            connection.close()


class Answers:
    """The worker that the pages show: everything is real except Kafka."""

    def __init__(self, settings: Settings) -> None:
        self.metrics, self.health = Metrics(), Health(settings.ready_max_age_ms)
        self._processor = ShopProcessor(settings, None, partitions=1)

    async def look_up(self, user_id: str) -> dict[str, Any] | None:
        return self._processor.look_up(user_id)


@asynccontextmanager
async def serving(bind: str = "127.0.0.1", **options: Any) -> AsyncIterator[Port]:
    """A worker's web server; `bind` is the setting, but the socket is always on loopback."""
    number = free_port()
    settings = settings_with(web=f"{bind}:{number}", **options)
    app = faust.App("web-test", broker="batch://127.0.0.1:1", **web_options(settings))
    add_pages(app, Answers(settings), settings)
    app.conf.web_bind = "127.0.0.1"  # no test opens a port to other machines
    app.web.init_server()
    await app.web.start_server()
    try:
        yield Port(number)
    finally:
        await app.web._runner.cleanup()


def settings_with(**options: Any) -> Settings:
    return load_settings(env={}, options={"resident_users": 100, **options})


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    return file


async def statuses(port: Port, *paths: str, **headers: str) -> list[int]:
    return [(await port.get(path, **headers)).status for path in paths]


PAGES = ("/metrics", "/health/live", "/health/ready", USER)


async def test_by_default_the_port_is_on_loopback_and_open_there() -> None:
    """By default the port is on 127.0.0.1, and every page answers without a token."""
    assert load_settings(env={}).web_address == ("127.0.0.1", 6066)
    async with serving() as port:
        assert await statuses(port, *PAGES) == [200, 200, 503, 404]
        assert "holds no user 'somebody'" in (await port.get(USER)).body


@pytest.mark.parametrize("bind", ["0.0.0.0", "[::]", "worker-1.example"])
async def test_no_user_data_for_other_machines_without_a_token(bind: str) -> None:
    """On any address except loopback, look-ups are refused with a message; health and metrics stay open."""
    async with serving(bind) as port:
        assert await statuses(port, *PAGES) == [200, 200, 503, 403]
        refused = json.loads((await port.get(USER)).body)
        assert "FORECLICK_WEB_TOKEN_FILE" in refused["error"]
        assert await statuses(port, USER, **BEARER) == [403], "a token that is not set opens nothing"


async def test_with_a_token_look_ups_ask_for_it(token_file: Path) -> None:
    """The correct token opens look-ups, anything else is 401, and no answer shows the token."""
    async with serving("0.0.0.0", web_token_file=token_file) as port:
        assert await statuses(port, *PAGES) == [200, 200, 503, 401]
        assert await statuses(port, USER, **BEARER) == [404]
        wrong = [
            "",
            TOKEN,
            f"Basic {TOKEN}",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            "Bearer ",
            "Bearer é",
        ]
        for each in wrong:
            answer = await port.get(USER, Authorization=each)
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), each
            assert TOKEN not in answer.body + str(answer.headers)


async def test_a_token_counts_on_loopback_too(token_file: Path) -> None:
    """If a token is set, look-ups need it, even on the same machine."""
    async with serving(web_token_file=token_file) as port:
        assert await statuses(port, USER) == [401]
        assert await statuses(port, USER, **BEARER) == [404]


async def test_everything_can_ask_for_the_token(token_file: Path) -> None:
    """`web_protect=all` closes metrics; health shows its status to probes, and its details only with the token."""
    async with serving("0.0.0.0", web_token_file=token_file, web_protect="all") as port:
        assert await statuses(port, *PAGES) == [401, 200, 503, 401]
        assert json.loads((await port.get("/health/ready")).body) == {"ok": False}
        assert await statuses(port, *PAGES, **BEARER) == [200, 200, 503, 404]
        assert "checks" in json.loads((await port.get("/health/ready", **BEARER)).body)


@pytest.mark.parametrize(
    "path",
    [
        "/", "/users/somebody", "/users//", "/table/", "/table/users/somebody/", "/router/users/somebody/",
        "/metrics/../users/somebody/", "/health/live/", "//users/somebody/", "/%75sers/somebody/",
        "/metrics%2f..%2fusers/somebody/", "/users/somebody/?x=/metrics", "/stats", "/performance/",
    ],
)  # fmt: skip
async def test_no_other_path_leads_around_the_token(path: str, token_file: Path) -> None:
    """Other spellings of a look-up, and Faust's own pages, are refused before any handler runs."""
    async with serving("0.0.0.0", web_token_file=token_file) as port:
        assert (await port.get(path)).status == 401
        for method in ("HEAD", "POST", "PUT", "OPTIONS", "DELETE"):
            assert (await port.get(path, method)).status == 401, method


async def test_fausts_own_pages_are_off(token_file: Path) -> None:
    """Even with the token there is no page that lists tables or routes."""
    async with serving(web_token_file=token_file) as port:
        found = await statuses(port, "/table/", "/table/users/somebody/", "/router/", "/graph/", **BEARER)
        assert found == [404] * 4


async def test_a_foreign_name_for_this_machine_gets_nothing() -> None:
    """A page in a browser that reaches 127.0.0.1 by its own host name (DNS rebinding) gets no page."""
    async with serving(web_hosts="shop-worker") as port:
        for host in (
            "evil.example",
            "evil.example:6066",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "localhost.evil",
        ):
            assert await statuses(port, *PAGES, Host=host) == [403] * 4, host
        for host in (
            "localhost",
            "LOCALHOST:6066",
            "127.0.0.1:6066",
            "[::1]:6066",
            "127.8.8.8",
            "Shop-Worker:80",
        ):
            assert await statuses(port, *PAGES, Host=host) == [200, 200, 503, 404], host


async def test_what_is_no_host_is_refused() -> None:
    """A host that a lenient parser would accept as this machine is 400 on every page."""
    async with serving() as port:
        for host in (
            "[::1.evil", "[::1].evil.com", "[::1]evil.com", "127.0.0.1:80:evil.com", "localhost:x", "localhost:",
            "[localhost]", "[127.0.0.1]", "::1", "localhost evil", "evil@localhost", "localhost/", "", "%31", "[]",
        ):  # fmt: skip
            assert await statuses(port, *PAGES, Host=host) == [400] * 4, host


async def test_addresses_and_own_names_open_a_port_of_the_network() -> None:
    """A probe by the pod's address and a scrape by a name in the settings are answered, others not."""
    async with serving("0.0.0.0", web_hosts="worker, foreclick.shop.svc") as port:
        for host in (
            "10.1.2.3:6066",
            "[fd00::1]:6066",
            "worker:6066",
            "foreclick.shop.svc",
            socket.gethostname(),
        ):
            assert await statuses(port, *PAGES, Host=host) == [200, 200, 503, 403], host
        for host in ("evil.example", "worker.evil", "10.1.2.3.evil"):
            assert await statuses(port, *PAGES, Host=host) == [403] * 4, host


async def test_a_token_opens_by_any_name(token_file: Path) -> None:
    """A request with the token is accepted with any host, since a foreign page cannot have it."""
    async with serving("0.0.0.0", web_token_file=token_file) as port:
        assert await statuses(port, *PAGES, Host="by.another.name") == [403] * 4
        assert await statuses(port, *PAGES, Host="by.another.name", **BEARER) == [200, 200, 503, 404]


def raw(port: Port, request: bytes) -> int:
    """Return the status of the answer to these bytes."""
    with socket.create_connection(("127.0.0.1", port.number), timeout=20) as s:
        s.sendall(request)
        return int(s.recv(100).split(b" ")[1])


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /users/x/ HTTP/1.0\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.0\r\n\r\n", 400),
        (b"GET /health/live HTTP/1.0\r\n\r\n", 200),
        (b"GET http://127.0.0.1/users/x/ HTTP/1.1\r\nHost: evil.com\r\n\r\n", 400),
        (b"GET http://127.0.0.1/users/x/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nHost: evil.com\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", 200),
    ],
)
async def test_requests_that_no_browser_sends(request_: bytes, status: int) -> None:
    """A request without Host, with two, or with a host in its target is refused; an old health probe is answered."""
    async with serving() as port:
        assert await asyncio.to_thread(raw, port, request_) == status


async def test_answers_are_not_kept_and_do_not_name_versions() -> None:
    """No answer may be cached, and none names Python or libraries; the same for refusals."""
    async with serving("0.0.0.0") as port:
        for path in PAGES:
            headers = (await port.get(path)).headers
            assert headers["Server"] == "foreclick", path
            assert headers["Cache-Control"] == "no-store", path
            assert headers["X-Content-Type-Options"] == "nosniff", path


async def test_tls(tmp_path: Path, token_file: Path) -> None:
    """With a certificate the port accepts only TLS 1.2 or later."""
    pair = self_signed(tmp_path)
    options = {"web_cert": pair.cert, "web_key": pair.key, "web_token_file": token_file}
    async with serving("0.0.0.0", **options) as port:
        with pytest.raises((http.client.HTTPException, OSError)):
            await port.get("/health/live")
        secure = Port(port.number, ssl.create_default_context(cafile=str(pair.cert)))
        assert await statuses(secure, *PAGES, **BEARER) == [200, 200, 503, 404]
        with pytest.raises(ssl.SSLCertVerificationError):
            await Port(port.number, ssl.create_default_context()).get("/health/live")


def test_tls_files_that_cannot_be_used(tmp_path: Path) -> None:
    """A missing file, a key of another certificate, a key with a password: one sentence each, and no prompt."""
    one, two = self_signed(tmp_path / "one"), self_signed(tmp_path / "two")
    locked = self_signed(tmp_path / "three", password=b"secret-of-the-key")
    for cert, key in ((tmp_path / "none", one.key), (one.cert, two.key), (locked.cert, locked.key)):
        with pytest.raises(SettingsError, match=r"cannot be used.*PEM") as caught:
            web_options(settings_with(web_cert=cert, web_key=key))
        assert "secret-of-the-key" not in str(caught.value)
    with pytest.raises(SettingsError, match="belong together"):
        settings_with(web_cert=one.cert)


@pytest.mark.parametrize(
    "content", ["short", "has a space in it, and more", "secretsecretsecret\nsecond-line"]
)
def test_a_bad_token_is_refused_and_not_shown(tmp_path: Path, content: str) -> None:
    """A token that is too short, with spaces, or of two lines is refused with the remedy, and is not repeated."""
    file = tmp_path / "token"
    file.write_text(content)
    for env in ({"FORECLICK_WEB_TOKEN_FILE": str(file)}, {"FORECLICK_WEB_TOKEN": content}):
        with pytest.raises(SettingsError, match="openssl rand -hex 32") as caught:
            load_settings(env=env)
        assert content not in str(caught.value)


def test_a_token_comes_by_variable_or_file_and_is_not_shown(token_file: Path) -> None:
    """Both ways give the same token, which the settings do not print."""
    for env in ({"FORECLICK_WEB_TOKEN_FILE": str(token_file)}, {"FORECLICK_WEB_TOKEN": TOKEN}):
        settings = load_settings(env=env)
        assert settings.web_token is not None and settings.web_token.reveal() == TOKEN
        assert TOKEN not in repr(settings)


def test_a_missing_token_file_and_all_without_a_token(tmp_path: Path) -> None:
    """Both are errors at the start, not an open port."""
    with pytest.raises(SettingsError, match="nowhere cannot be read"):
        settings_with(web_token_file=tmp_path / "nowhere")
    with pytest.raises(SettingsError, match="web_protect is all"):
        settings_with(web_protect="all")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True), ("127.255.0.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
        ("::", False), ("10.0.0.5", False), ("example.org", False), ("localhost.evil.example", False), ("", False),
    ],
)  # fmt: skip
def test_what_counts_as_loopback(host: str, expected: bool) -> None:
    """Addresses that only this machine reaches; a name counts only if it is localhost."""
    assert is_loopback(host) is expected


def test_an_unknown_page_is_closed() -> None:
    """A new page is protected like user data by default."""
    assert Access(None, loopback=False).refusal("/new", "", ["127.0.0.1"]) is not None
    assert Access(TOKEN, loopback=True).refusal("/new", "", ["127.0.0.1"]) is not None
