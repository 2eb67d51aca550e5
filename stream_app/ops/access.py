"""Who may see which page of the worker's port: a bearer token, TLS, and what is shown without them.

Whatever is not listed here as open is taken for user data: a page that somebody adds is closed until it is listed.
"""

import hmac
import ipaddress
import re
import socket
import ssl
from collections.abc import Collection, Sequence
from typing import NamedTuple

from aiohttp import web
from aiohttp.typedefs import Handler

from stream_app.errors import SettingsError
from stream_app.settings import Settings

HEALTH_PAGES = frozenset({"/health/live", "/health/ready"})
METRICS_PAGE = "/metrics"

_OPEN_PORT = (
    "look-ups are refused: the port is open to other machines and asks for no token; "
    "set FORECLICK_WEB_TOKEN (or FORECLICK_WEB_TOKEN_FILE), or bind FORECLICK_WEB to 127.0.0.1"
)
_OTHER_HOST = (
    "this port answers to addresses and to this machine's own names; name others that lead to it in "
    "FORECLICK_WEB_HOSTS"
)
_BAD_HOST = "the request must name its host once, as `Host: name` or `Host: name:port`"
_BAD_TARGET = "the request must ask for a path such as /metrics"
_ASK = "this page asks for `Authorization: Bearer TOKEN` with the token of this worker"


class Refusal(NamedTuple):
    """An answer in place of a page."""

    status: int
    text: str


class Access:
    """Judges requests by their path, `Authorization` and `Host`."""

    def __init__(
        self,
        token: str | None,
        *,
        loopback: bool,
        protect_all: bool = False,
        names: Collection[str] = (),
    ) -> None:
        """`loopback`: only this machine reaches the port; `protect_all`: metrics and details of health too.

        `names`: what the port may be called beside `localhost` and addresses.
        """
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._loopback = loopback
        self._protect_all = protect_all
        self._names = frozenset(name.lower() for name in names)

    def knows(self, authorization: str) -> bool:
        """Whether the header carries the token; compared in constant time."""
        given = authorization.encode("utf-8", "surrogateescape")
        return self._expected is not None and hmac.compare_digest(given, self._expected)

    def details(self, authorization: str) -> bool:
        """Whether a health page may say what its checks found."""
        return not self._protect_all or self.knows(authorization)

    def refusal(
        self, path: str, authorization: str, hosts: Sequence[str], target: str | None = None
    ) -> Refusal | None:
        """Why a request is not answered, None where it is.

        `hosts` are its `Host` headers, `target` what its first line asks for (`path`, where None).
        """
        if not (path if target is None else target).startswith("/"):
            return Refusal(400, _BAD_TARGET)
        name = host_of(hosts[0]) if len(hosts) == 1 else None
        # A load balancer's probe in HTTP/1.0 names no host. A browser always does.
        if name is None and (hosts or path not in HEALTH_PAGES):
            return Refusal(400, _BAD_HOST)
        knows = self.knows(authorization)
        # A page in a browser could otherwise read ours by a name of its own that leads here (DNS rebinding).
        if not knows and name is not None and not self._answers_to(name):
            return Refusal(403, _OTHER_HOST)
        if path in HEALTH_PAGES or (path == METRICS_PAGE and not self._protect_all):
            return None
        if self._expected is not None:
            return None if knows else Refusal(401, _ASK)
        return None if self._loopback else Refusal(403, _OPEN_PORT)

    def _answers_to(self, name: str) -> bool:
        if is_loopback(name) or name in self._names:
            return True
        return not self._loopback and _is_address(name)


_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})))(?::\d{1,5})?")


def host_of(header: str) -> str | None:
    """The name or address in a `Host` header, in lower case, without brackets and port; None where it is none."""
    match = _HOST.fullmatch(header)
    if match is None:
        return None
    address, name = match[1], match[2]
    if address is None:
        return name.lower()
    return address.lower() if _is_address(address) and ":" in address else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether an address, or the name `localhost`, can only be this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def access_of(settings: Settings) -> Access:
    """What the settings allow."""
    host, _ = settings.web_address or ("127.0.0.1", 0)
    token = None if settings.web_token is None else settings.web_token.reveal()
    loopback = is_loopback(host)
    own = () if loopback else (host, socket.gethostname())
    return Access(
        token, loopback=loopback, protect_all=settings.web_protect == "all", names=(*own, *settings.web_hosts)
    )


def tls_of(settings: Settings) -> ssl.SSLContext | None:
    """The TLS of the port, None where it is plain. Raises SettingsError where a file cannot be used."""
    if settings.web_cert is None or settings.web_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # A key with a password would ask for it at a terminal: an empty one makes it an error.
        context.load_cert_chain(settings.web_cert, settings.web_key, password="")
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise SettingsError(
            [
                f"web_cert {settings.web_cert} and web_key {settings.web_key} cannot be used ({reason}): give a "
                "certificate and its key without a password, both as PEM"
            ]
        ) from error
    return context


def guard(application: web.Application, access: Access) -> None:
    """Puts the rules before every page of an aiohttp application that has not started."""

    @web.middleware
    async def judge(request: web.Request, handler: Handler) -> web.StreamResponse:
        refused = access.refusal(
            request.path,
            request.headers.get("Authorization", ""),
            request.headers.getall("Host", []),
            request.raw_path,
        )
        if refused is not None:
            challenge = {"WWW-Authenticate": "Bearer"} if refused.status == 401 else {}
            return web.json_response({"error": refused.text}, status=refused.status, headers=challenge)
        return await handler(request)

    async def headers(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Server"] = "foreclick"  # and not the versions of Python and aiohttp
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"

    application.middlewares.append(judge)
    application.on_response_prepare.append(headers)
