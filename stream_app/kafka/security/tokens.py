"""Tokens for OAUTHBEARER: from a file, or from an OAuth 2 token endpoint in exchange for a client secret."""

import asyncio
import base64
import re
import ssl
import time
from pathlib import Path
from typing import Any

import msgspec
from aiokafka.abc import AbstractTokenProvider

from stream_app.kafka.errors import TokenError
from stream_app.settings.kafka import variable
from stream_app.settings.sources import Secret

#: Longest time to get a token from the endpoint, including the connection, in seconds.
ENDPOINT_LIMIT_S = 10.0
#: A token is reused until this share of its lifetime is over.
_REUSE = 0.8
_MAX_BYTES = 64 * 1024
#: A bearer token (RFC 6750). A line break or a control character in it would break the login request.
_TOKEN = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
#: An error code of OAuth 2 (RFC 6749, section 5.2): the only part of a refusal that our messages show.
_ERROR_CODE = re.compile(r"[a-z_]{1,40}")


class FileToken(AbstractTokenProvider):
    """Reads the file again for each connection, so that another program can renew the token."""

    def __init__(self, file: Path) -> None:
        self._file = file

    async def token(self) -> str:
        """The token. Raises TokenError."""
        try:
            text = await asyncio.to_thread(self._file.read_text, "ascii")
        except OSError as error:
            raise TokenError(
                f"the token file {self._file} cannot be read ({error.strerror}): see {variable('oauth_token_file')}"
            ) from None
        except ValueError:
            text = ""
        if not _TOKEN.fullmatch(text.strip()):
            raise TokenError(f"the file {self._file} holds no token, see {variable('oauth_token_file')}")
        return text.strip()


class _Granted(msgspec.Struct):
    """A token endpoint's answer (RFC 6749, section 5.1)."""

    access_token: str
    expires_in: float = 0.0  #: seconds; 0 if the endpoint does not say, so that the token is not reused


class EndpointToken(AbstractTokenProvider):
    """Asks a token endpoint with client id and secret (the grant "client credentials")."""

    def __init__(
        self, url: str, client_id: str, secret: Secret, scope: str | None, context: ssl.SSLContext
    ) -> None:
        self._url, self._client_id, self._secret, self._scope = url, client_id, secret, scope
        self._context = context
        self._kept = ""
        self._good_until = 0.0

    async def token(self) -> str:
        """The last token while it is valid, otherwise a new one. Raises TokenError."""
        # Several threads call this; at worst two of them fetch a token at the same time.
        kept, good_until = self._kept, self._good_until
        if time.monotonic() < good_until:
            return kept
        try:
            status, body = await self._ask()
        except TimeoutError:
            raise self._error(f"gave no answer within {ENDPOINT_LIMIT_S:g} s") from None
        except OSError as error:  # aiohttp's errors of connections and certificates are OSErrors
            raise self._error(f"cannot be reached ({_short(error)})") from None
        except ValueError as error:
            raise self._error(str(error)) from None
        if status != 200:
            raise self._error(f"refused with status {status}{_code(body)}: check client id and secret")
        try:
            granted = msgspec.json.decode(body, type=_Granted)
        except msgspec.DecodeError:
            raise self._error("sent an answer without an access_token") from None
        if not _TOKEN.fullmatch(granted.access_token):
            raise self._error("sent a token that is none")
        self._good_until = 0.0  # so that no thread uses the old token with the new token's time
        self._kept = granted.access_token
        self._good_until = time.monotonic() + _REUSE * granted.expires_in
        return granted.access_token

    async def _ask(self) -> tuple[int, bytes]:
        import aiohttp

        form = {"grant_type": "client_credentials", **({"scope": self._scope} if self._scope else {})}
        limit = aiohttp.ClientTimeout(total=ENDPOINT_LIMIT_S)
        login = base64.b64encode(f"{self._client_id}:{self._secret.reveal()}".encode()).decode()
        headers = {"Authorization": f"Basic {login}", "Accept": "application/json"}
        try:
            async with (
                aiohttp.ClientSession(timeout=limit, headers=headers) as session,
                session.post(self._url, data=form, ssl=self._context, allow_redirects=False) as answer,
            ):
                body = await answer.content.read(_MAX_BYTES)
                while not answer.content.at_eof():
                    body += await answer.content.read(_MAX_BYTES)
                    if len(body) > _MAX_BYTES:
                        raise ValueError(f"sent more than {_MAX_BYTES} bytes")
                return answer.status, body
        except aiohttp.ClientError as error:
            if isinstance(error, OSError):
                raise
            raise OSError(type(error).__name__) from None

    def _error(self, what: str) -> TokenError:
        return TokenError(f"the token endpoint {self._url} {what}; see {variable('oauth_token_url')}")


def _short(error: OSError) -> str:
    """Only the cause of an error: the problem with the certificate, the system's message, or else the type."""
    inner: Any = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    return getattr(inner, "verify_message", None) or inner.strerror or str(inner) or type(inner).__name__


def _code(body: bytes) -> str:
    try:
        code = msgspec.json.decode(body, type=dict[str, Any]).get("error")
    except msgspec.DecodeError:
        return ""
    return f" ({code})" if isinstance(code, str) and _ERROR_CODE.fullmatch(code) else ""
