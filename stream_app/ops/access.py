"""Who may see which page of the worker's port: a bearer token, TLS, and what is shown without them.

Whatever is not listed here as open is taken for user data: a page that somebody adds is closed until it is listed.
"""

import hmac
import ipaddress
import ssl
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
_OTHER_HOST = "look-ups without a token are answered to this machine's own names only, such as 127.0.0.1"
_ASK = "this page asks for `Authorization: Bearer TOKEN` with the token of this worker"


class Refusal(NamedTuple):
    """An answer in place of a page."""

    status: int
    text: str


class Access:
    """Judges requests by their path, `Authorization` and `Host`."""

    def __init__(self, token: str | None, *, loopback: bool, protect_all: bool = False) -> None:
        """`loopback`: only this machine reaches the port; `protect_all`: metrics and details of health too."""
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._loopback = loopback
        self._protect_all = protect_all

    def knows(self, authorization: str) -> bool:
        """Whether the header carries the token; compared in constant time."""
        given = authorization.encode("utf-8", "surrogateescape")
        return self._expected is not None and hmac.compare_digest(given, self._expected)

    def details(self, authorization: str) -> bool:
        """Whether a health page may say what its checks found."""
        return not self._protect_all or self.knows(authorization)

    def refusal(self, path: str, authorization: str, host: str) -> Refusal | None:
        """Why a request is not answered, None where it is; `host` is the header, with or without a port."""
        if path in HEALTH_PAGES or (path == METRICS_PAGE and not self._protect_all):
            return None
        if self._expected is not None:
            return None if self.knows(authorization) else Refusal(401, _ASK)
        if not self._loopback:
            return Refusal(403, _OPEN_PORT)
        # A page in a browser on this machine could otherwise read look-ups by a name of its own for 127.0.0.1.
        return None if is_loopback(_without_port(host)) else Refusal(403, _OTHER_HOST)


def _without_port(host: str) -> str:
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


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
    return Access(token, loopback=is_loopback(host), protect_all=settings.web_protect == "all")


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
        refused = access.refusal(request.path, request.headers.get("Authorization", ""), request.host)
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
