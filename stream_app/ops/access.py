"""Access control of the worker's web port: a bearer token, TLS, and the pages that need no token.

Every page that is not listed here as open counts as user data, so a new page is protected until it is listed.
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
    "look-ups are refused: the port is open to other machines and requires no token; "
    "set FORECLICK_WEB_TOKEN (or FORECLICK_WEB_TOKEN_FILE), or bind FORECLICK_WEB to 127.0.0.1"
)
_OTHER_HOST = (
    "this port answers requests for IP addresses and for this machine's own names; list other names in "
    "FORECLICK_WEB_HOSTS"
)
_BAD_HOST = "the request must name its host once, as `Host: name` or `Host: name:port`"
_BAD_TARGET = "the request must ask for a path such as /metrics"
_ASK = "this page requires `Authorization: Bearer TOKEN` with the token of this worker"


class Refusal(NamedTuple):
    """An error response instead of a page."""

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
        """`loopback`: only this machine reaches the port. `protect_all`: metrics and health details need a token.

        `names`: host names that requests may use in addition to `localhost` and IP addresses.
        """
        self._expected = None if token is None else f"Bearer {token}".encode()
        self._loopback = loopback
        self._protect_all = protect_all
        self._names = frozenset(name.lower() for name in names)

    def knows(self, authorization: str) -> bool:
        """Whether the header contains the token; compares in constant time."""
        given = authorization.encode("utf-8", "surrogateescape")
        return self._expected is not None and hmac.compare_digest(given, self._expected)

    def details(self, authorization: str) -> bool:
        """Whether a health page may show the results of its checks."""
        return not self._protect_all or self.knows(authorization)

    def refusal(
        self, path: str, authorization: str, hosts: Sequence[str], target: str | None = None
    ) -> Refusal | None:
        """Why a request is refused; None if it is allowed.

        `hosts` are its `Host` headers, `target` is the target in its first line (None: the same as `path`).
        """
        if not (path if target is None else target).startswith("/"):
            return Refusal(400, _BAD_TARGET)
        name = host_of(hosts[0]) if len(hosts) == 1 else None
        # Probes of load balancers that use HTTP/1.0 send no host. A browser always sends one.
        if name is None and (hosts or path not in HEALTH_PAGES):
            return Refusal(400, _BAD_HOST)
        knows = self.knows(authorization)
        # Otherwise a foreign web page could read ours under a name of its own that resolves to this machine (DNS
        # rebinding).
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
    """The name or address in a `Host` header, in lower case, without brackets and port; None if it is invalid."""
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
    """Whether `host` is `localhost` or a loopback address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def access_of(settings: Settings) -> Access:
    """The access rules that follow from the settings."""
    host, _ = settings.web_address or ("127.0.0.1", 0)
    token = None if settings.web_token is None else settings.web_token.reveal()
    loopback = is_loopback(host)
    own = () if loopback else (host, socket.gethostname())
    return Access(
        token, loopback=loopback, protect_all=settings.web_protect == "all", names=(*own, *settings.web_hosts)
    )


def tls_of(settings: Settings) -> ssl.SSLContext | None:
    """The TLS context of the port; None without TLS. Raises SettingsError if a file cannot be used."""
    if settings.web_cert is None or settings.web_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # OpenSSL would ask at the terminal for the password of an encrypted key. With an empty one it fails instead.
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
    """Applies the access rules to every page of an aiohttp application, which must not have started yet."""

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
        response.headers["Server"] = "foreclick"  # hides the versions of Python and aiohttp
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"

    application.middlewares.append(judge)
    application.on_response_prepare.append(headers)
