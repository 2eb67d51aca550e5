"""Settings of the connection to Kafka: encryption, certificates and login."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec

from stream_app.settings.sources import ENV_PREFIX, Secret
from stream_app.settings.sources import doc as _doc

OAUTH = "OAUTHBEARER"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _is_token_url(text: str) -> bool:
    """Whether a client secret may be sent to this URL: it uses TLS, or it is on this machine."""
    try:
        url = urlsplit(text)
        return bool(url.hostname) and (
            url.scheme == "https" or (url.scheme == "http" and url.hostname in _LOOPBACK)
        )
    except ValueError:
        return False


class KafkaAccess(msgspec.Struct, frozen=True, kw_only=True):
    """How to connect to the brokers. Secrets come from variables, or from files that the `..._file` settings name."""

    security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"],
        _doc("encryption (SSL is TLS) and login (SASL) of all connections to Kafka"),
    ] = "PLAINTEXT"

    ssl_ca_file: Annotated[
        Path | None,
        _doc("CA certificates (PEM) to trust for brokers; by default those of the system"),
    ] = None
    ssl_cert_file: Annotated[
        Path | None, _doc("client certificate (PEM, followed by its chain), for brokers that require one")
    ] = None
    ssl_key_file: Annotated[
        Path | None, _doc("private key of the client certificate (PEM), if it is not in the same file")
    ] = None
    ssl_key_password: Annotated[Secret | None, _doc("password of the private key")] = None
    ssl_key_password_file: Annotated[
        Path | None, _doc("file that contains the password of the private key")
    ] = None

    sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None,
        _doc("login method, required with SASL"),
    ] = None
    sasl_user: Annotated[str | None, _doc("user name, for PLAIN and SCRAM", takes="a name")] = None
    sasl_password: Annotated[Secret | None, _doc("password, for PLAIN and SCRAM")] = None
    sasl_password_file: Annotated[Path | None, _doc("file that contains the password")] = None

    oauth_token_file: Annotated[
        Path | None,
        _doc("file that contains the token for OAUTHBEARER; it is read again for each connection"),
    ] = None
    oauth_token_url: Annotated[
        str | None,
        _doc(
            "endpoint that returns a token for a client id and secret, for OAUTHBEARER",
            takes="a URL that begins with https:// (http:// for this machine only)",
            check=_is_token_url,
        ),
    ] = None
    oauth_ca_file: Annotated[
        Path | None,
        _doc("CA certificates (PEM) to trust for the token endpoint, in addition to the system's"),
    ] = None
    oauth_client_id: Annotated[
        str | None,
        _doc(
            "client id for the token endpoint",
            takes="a name without a colon",
            check=lambda name: ":" not in name,
        ),
    ] = None
    oauth_client_secret: Annotated[Secret | None, _doc("client secret for the token endpoint")] = None
    oauth_client_secret_file: Annotated[Path | None, _doc("file that contains the client secret")] = None
    oauth_scope: Annotated[
        str | None, _doc("scope to request from the token endpoint", takes="names separated by spaces")
    ] = None

    @property
    def encrypted(self) -> bool:
        """Whether connections are TLS."""
        return self.security_protocol.endswith("SSL")

    @property
    def login(self) -> bool:
        """Whether the client logs in with SASL."""
        return self.security_protocol.startswith("SASL")


def variable(name: str) -> str:
    """Return the environment variable of a setting of this group: `variable("sasl_user")`."""
    return f"{ENV_PREFIX}KAFKA_{name.upper()}"


def kafka_clashes(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield one sentence for each contradiction between these settings (`values` by full name)."""
    chosen = {name: values.get(f"kafka_{name}") for name in KafkaAccess.__struct_fields__}
    given = [name for name, value in chosen.items() if value is not None]
    protocol = chosen["security_protocol"]
    mechanism = chosen["sasl_mechanism"]
    for prefix, fit in (("ssl_", ("SSL", "SASL_SSL")), ("sasl_", ("SASL_SSL", "SASL_PLAINTEXT"))):
        unused = next((name for name in given if name.startswith(prefix)), None)
        if unused and protocol not in fit:
            yield _unused(
                unused, f"{variable('security_protocol')} is {protocol}: set it to {' or '.join(fit)}"
            )
            return
    unused = next((name for name in given if name.startswith("oauth_")), None)
    if unused and (not str(protocol).startswith("SASL") or mechanism != OAUTH):
        yield _unused(unused, f"{variable('sasl_mechanism')} is {mechanism or 'not set'}: set it to {OAUTH}")
        return
    if chosen["ssl_key_file"] and not chosen["ssl_cert_file"]:
        yield (
            f"{variable('ssl_key_file')} is given without {variable('ssl_cert_file')}: give the certificate of "
            "that key as well"
        )
    if str(protocol).startswith("SASL"):
        yield from _login_clashes(chosen)


def _unused(name: str, why: str) -> str:
    return f"{variable(name)} is given but would not be used, because {why}, or remove it"


def _login_clashes(chosen: Mapping[str, Any]) -> Iterator[str]:
    mechanism = chosen["sasl_mechanism"]
    if mechanism is None:
        yield (
            f"{variable('sasl_mechanism')} is required when {variable('security_protocol')} is "
            f"{chosen['security_protocol']}: set it to a method that the brokers offer"
        )
    elif mechanism != OAUTH:
        missing = [name for name in ("sasl_user", "sasl_password") if chosen[name] is None]
        if missing:
            also = f" (or {variable('sasl_password_file')})" if "sasl_password" in missing else ""
            yield f"{' and '.join(map(variable, missing))}{also} must be set for {mechanism}"
    elif (chosen["oauth_token_file"] is None) == (chosen["oauth_token_url"] is None):
        yield (
            f"{OAUTH} needs one of {variable('oauth_token_file')} and {variable('oauth_token_url')}: "
            "give one of them"
        )
    elif chosen["oauth_token_url"] and None in (chosen["oauth_client_id"], chosen["oauth_client_secret"]):
        yield (
            f"{variable('oauth_client_id')} and {variable('oauth_client_secret')} (or its _FILE) are needed "
            f"with {variable('oauth_token_url')}"
        )
