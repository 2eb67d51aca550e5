"""Translates the settings into options of Kafka clients: protocol, TLS context, login."""

import logging
import ssl
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aiokafka.abc import AbstractTokenProvider
from aiokafka.protocol.admin import SaslAuthenticateRequest_v0, SaslAuthenticateRequest_v1

from stream_app.kafka.errors import SecurityError
from stream_app.kafka.security.tokens import EndpointToken, FileToken
from stream_app.settings import Settings
from stream_app.settings.kafka import OAUTH, KafkaAccess, variable

__all__ = ["PLAIN", "SecurityError", "identity", "kafka_options", "security_options"]

#: The options of a client without any security.
PLAIN: Mapping[str, Any] = MappingProxyType({"security_protocol": "PLAINTEXT"})


def kafka_options(settings: Settings) -> dict[str, Any]:
    """Brokers and security as keyword arguments of any aiokafka client. Raises SecurityError.

    Reads the certificates and keys now. The dict contains the password: never show it.
    """
    return {"bootstrap_servers": list(settings.brokers), **security_options(settings.kafka)}


def security_options(access: KafkaAccess) -> dict[str, Any]:
    """Security as keyword arguments of any aiokafka client. Raises SecurityError."""
    options: dict[str, Any] = {"security_protocol": access.security_protocol}
    if access.encrypted:
        options["ssl_context"] = tls_context(access)
    if access.login:
        _keep_logins_out_of_the_log()
        options["sasl_mechanism"] = access.sasl_mechanism
        if access.sasl_mechanism == OAUTH:
            options["sasl_oauth_token_provider"] = _tokens(access)
        else:
            assert access.sasl_user is not None and access.sasl_password is not None
            options["sasl_plain_username"] = access.sasl_user
            options["sasl_plain_password"] = access.sasl_password.reveal()
    return options


def identity(access: KafkaAccess) -> str:
    """A phrase that says as whom the broker sees us."""
    if access.login:
        return "the holder of the token" if access.sasl_mechanism == OAUTH else f"user {access.sasl_user}"
    return f"the certificate {access.ssl_cert_file}" if access.ssl_cert_file else "a client without login"


def tls_context(access: KafkaAccess) -> ssl.SSLContext:
    """The TLS context of a client; it checks the broker's certificate and name. Raises SecurityError."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if access.ssl_ca_file is not None:
        # Trust only these authorities: with a private authority, no public one may sign a broker's certificate.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _load_authorities(context, access.ssl_ca_file, "ssl_ca_file")
    if access.ssl_cert_file is not None:
        _load_own(context, access)
    return context


def _load_authorities(context: ssl.SSLContext, file: Path, setting: str) -> None:
    _require_readable(file, setting)
    try:
        context.load_verify_locations(file)
    except (OSError, ValueError):
        raise SecurityError(f"{variable(setting)}: {file} holds no certificate as PEM") from None


def _load_own(context: ssl.SSLContext, access: KafkaAccess) -> None:
    cert, key = access.ssl_cert_file, access.ssl_key_file
    assert cert is not None
    _require_readable(cert, "ssl_cert_file")
    if key is not None:
        _require_readable(key, "ssl_key_file")
    asked = False

    def password() -> str:
        nonlocal asked
        asked = True
        # Return an empty password rather than none, because OpenSSL would then ask at the terminal.
        return access.ssl_key_password.reveal() if access.ssl_key_password else ""

    try:
        context.load_cert_chain(cert, key, password)
    except (OSError, ValueError) as error:
        place = f"{key or cert}"
        if asked:
            wrong = "is wrong for" if access.ssl_key_password else "is needed for"
            raise SecurityError(
                f"{variable('ssl_key_password')} (or its _FILE) {wrong} the key {place}"
            ) from None
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            raise SecurityError(f"the key {place} does not belong to the certificate {cert}") from None
        raise SecurityError(
            f"{cert} and {place} hold no certificate and key as PEM: see {variable('ssl_cert_file')} and "
            f"{variable('ssl_key_file')}"
        ) from None


def _require_readable(file: Path, setting: str) -> None:
    """Raises SecurityError if a file cannot be read. OpenSSL's own error would not name the file."""
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise SecurityError(f"{variable(setting)}: {file} cannot be read ({error.strerror})") from None


def _tokens(access: KafkaAccess) -> AbstractTokenProvider:
    if access.oauth_token_file is not None:
        return FileToken(access.oauth_token_file)
    context = ssl.create_default_context()
    if access.oauth_ca_file is not None:
        _load_authorities(context, access.oauth_ca_file, "oauth_ca_file")
    url, client, secret = access.oauth_token_url, access.oauth_client_id, access.oauth_client_secret
    assert url is not None and client is not None and secret is not None
    return EndpointToken(url, client, secret, access.oauth_scope, context)


def _is_no_login(record: logging.LogRecord) -> bool:
    logins = (SaslAuthenticateRequest_v0, SaslAuthenticateRequest_v1)
    return not (isinstance(record.args, tuple) and any(isinstance(each, logins) for each in record.args))


def _keep_logins_out_of_the_log() -> None:
    # At the level "debug" aiokafka logs whole requests, with passwords and tokens.
    logging.getLogger("aiokafka.conn").addFilter(_is_no_login)  # repeated calls add it only once
