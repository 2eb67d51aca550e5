"""Explains in one sentence why a broker refuses us.

If a Kafka client cannot log in, it only reports that it cannot connect, and writes the cause to its log. So after a
failure this module tries each broker once more, step by step: TLS, login, a first request.
"""

import asyncio
import ssl
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from aiokafka.conn import AIOKafkaConnection, collect_hosts, create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.admin import SaslHandShakeRequest
from aiokafka.protocol.metadata import MetadataRequest

from stream_app.kafka.errors import BrokerUnreachable, SecurityError, TokenError
from stream_app.kafka.security.advertised import Address, unreachable
from stream_app.settings.kafka import OAUTH, variable

#: How long each step may take, in seconds.
STEP_S = 3.0
#: OpenSSL's codes for a certificate that names another host or address.
_OTHER_NAME = (62, 64)
_FAILURES = (OSError, EOFError, KafkaError, TimeoutError)


async def explain(
    brokers: Sequence[str], security: Mapping[str, Any], tried: str = ""
) -> SecurityError | BrokerUnreachable:
    """The error to raise when no broker served us; `tried` says for how long we tried."""
    found = await _asked(brokers, security)
    if isinstance(found, SecurityError):
        return found
    if found is None:
        return BrokerUnreachable(
            f"no Kafka broker answers at {','.join(brokers)}{tried}: start one, for instance with "
            "`foreclick broker start`, or set FORECLICK_BROKERS"
        )
    asked, given = found
    return BrokerUnreachable(
        await unreachable(asked, given)
        or f"the brokers at {','.join(brokers)} answer, but did not do what was asked{tried}: try again"
    )


async def refusal(brokers: Sequence[str], security: Mapping[str, Any]) -> SecurityError | None:
    """Why the first broker that answers refuses us; None if it accepts us, or if no broker answers."""
    found = await _asked(brokers, security)
    return found if isinstance(found, SecurityError) else None


async def _asked(
    brokers: Sequence[str], security: Mapping[str, Any]
) -> SecurityError | tuple[Address, list[Address]] | None:
    """Why the first broker that answers refuses us; if it accepts us, its address and the addresses it gives."""
    for host, port, _ in collect_hosts(list(brokers), randomize=False):
        step = _Asked(host, port, security)
        try:
            given = await step.ask()
        except _FAILURES as error:
            sentence = await step.sentence(error)
            if sentence:
                return SecurityError(sentence)
        else:
            return (host, port), given
    return None


class _Asked:
    """One broker, asked as a client would ask it."""

    def __init__(self, host: str, port: int, security: Mapping[str, Any]) -> None:
        self._host, self._port = host, port
        self._broker = f"the broker at {host}:{port}"
        self._security = {key: value for key, value in security.items() if key != "bootstrap_servers"}
        self._protocol: str = security.get("security_protocol", "PLAINTEXT")
        self._mechanism: str = security.get("sasl_mechanism", "")
        self._logged_in = False

    async def ask(self) -> list[Address]:
        """The addresses of all brokers, as this one gives them. Raises the errors that a client would get."""
        connection = await self._connect(**self._security)
        self._logged_in = True
        try:
            answer = await connection.send(MetadataRequest([]))
            if not answer.brokers and self._mechanism == OAUTH:
                # The broker reports a refused token in a field that aiokafka does not read; later answers are empty.
                raise SaslAuthenticationFailed(self._broker)
            return [(host, port) for _, host, port, *_ in answer.brokers]
        finally:
            connection.close()

    async def _connect(self, **security: Any) -> AIOKafkaConnection:
        return await create_conn(
            self._host, self._port, client_id="foreclick", request_timeout_ms=int(STEP_S * 1000), **security
        )

    async def sentence(self, error: BaseException) -> str | None:
        """Explains the failure; None if the broker cannot be reached at all."""
        causes = list(_causes(error))
        for cause in causes:
            if isinstance(cause, TokenError):
                return str(cause.args[0])
            if isinstance(cause, ssl.SSLCertVerificationError):
                return self._certificate(cause)
            if isinstance(cause, SaslAuthenticationFailed):
                return self._wrong_login()
            if isinstance(cause, UnsupportedSaslMechanismError):
                return await self._other_mechanism()
            if isinstance(cause, IllegalSaslStateError):
                return (
                    f"{self._broker} asks for no login (SASL) on this port: "
                    f"set {variable('security_protocol')} to {self._protocol.removeprefix('SASL_')}, "
                    "or name another port in FORECLICK_BROKERS"
                )
        # A broker closes the connection if the client uses the wrong protocol. Without any answer, nothing is known.
        if any(isinstance(cause, ConnectionRefusedError | TimeoutError) for cause in causes):
            return None
        return await self._closed(causes)

    def _certificate(self, error: ssl.SSLCertVerificationError) -> str:
        why = error.verify_message.rstrip(".")
        if error.verify_code in _OTHER_NAME:
            return f"{self._broker} is not who its certificate names ({why}): name it so in FORECLICK_BROKERS"
        return (
            f"the certificate of {self._broker} is not trusted ({why}): if it is the right one, set "
            f"{variable('ssl_ca_file')} to the certificate of the authority that signed it"
        )

    def _wrong_login(self) -> str:
        if self._mechanism == OAUTH:
            return f"{self._broker} refuses the token, which may be expired, or of another issuer or audience"
        return (
            f"{self._broker} refuses the login of user {self._security['sasl_plain_username']} by "
            f"{self._mechanism}: wrong user or password, see {variable('sasl_user')} and "
            f"{variable('sasl_password')}"
        )

    async def _other_mechanism(self) -> str:
        offered = ""
        tls = "SSL" if self._protocol.endswith("SSL") else "PLAINTEXT"
        try:
            connection = await self._connect(
                security_protocol=tls, ssl_context=self._security.get("ssl_context")
            )
            try:
                answer = await connection.send(SaslHandShakeRequest(self._mechanism))
                offered = ", ".join(sorted(answer.enabled_mechanisms))
            finally:
                connection.close()
        except _FAILURES:
            offered = ""  # the sentence is also correct without the list
        return (
            f"{self._broker} does not offer {self._mechanism}{f' but {offered}' if offered else ''}: "
            f"set {variable('sasl_mechanism')} to what it offers"
        )

    async def _closed(self, causes: list[BaseException]) -> str | None:
        """Explains why the broker closed the connection before it answered."""
        encrypted = self._protocol.endswith("SSL")
        if encrypted and await self._answers_plainly():
            return (
                f"{self._broker} speaks no TLS on this port: set {variable('security_protocol')} to "
                f"{self._protocol.replace('SSL', 'PLAINTEXT')}, or name its TLS port in FORECLICK_BROKERS"
            )
        if not encrypted and not self._logged_in and await self._speaks_tls():
            return (
                f"{self._broker} speaks TLS on this port: set {variable('security_protocol')} to "
                f"{self._protocol.replace('PLAINTEXT', 'SSL')}, or name its plain port in FORECLICK_BROKERS"
            )
        alert = next((each for each in causes if isinstance(each, ssl.SSLError)), None)
        if alert is not None and "ALERT" in (alert.reason or ""):
            asks = "REQUIRED" in (alert.reason or "")
            return (
                f"{self._broker} {'asks for a' if asks else 'does not accept our'} certificate "
                f"({_words(alert)}): see {variable('ssl_cert_file')} and {variable('ssl_key_file')}"
            )
        if not self._logged_in:
            return None
        if self._mechanism == OAUTH and self._protocol.startswith("SASL"):
            return self._wrong_login()
        if not self._protocol.startswith("SASL"):
            asked = " asks for a login (SASL) on this port"
            return (
                f"{self._broker}{asked}: set {variable('security_protocol')} to SASL_"
                f"{self._protocol}, with {variable('sasl_mechanism')}, user and password"
            )
        return None

    async def _answers_plainly(self) -> bool:
        try:
            (await self._connect(security_protocol="PLAINTEXT")).close()
        except _FAILURES:
            return False
        return True

    async def _speaks_tls(self) -> bool:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE  # safe, because nothing is sent over this connection
        try:
            async with asyncio.timeout(STEP_S):
                _, writer = await asyncio.open_connection(self._host, self._port, ssl=context)
        except _FAILURES:
            return False
        writer.transport.abort()
        return True


def _words(alert: ssl.SSLError) -> str:
    """`TLSV13_ALERT_CERTIFICATE_REQUIRED` as `certificate required`."""
    return (alert.reason or "").partition("ALERT_")[2].replace("_", " ").lower()


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
