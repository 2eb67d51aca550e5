"""A broker with TLS, logins and rights, which makes its own certificates."""

import base64
import datetime as dt
import ipaddress
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from stream_app.lab.broker import EmbeddedKafka, Listener
from stream_app.lab.broker.ports import free_port
from tests.stream_app.certificates import Pair

#: It contains everything that could break the masking in the log: spaces, quotes, separators.
PASSWORD = "hunter2, 'open) sesame\" =%41}"
SUPER_USERS = ("ANONYMOUS", "CN=worker", "alice", "oscar")
MODULES = "org.apache.kafka.common.security"


class Authority:
    """Signs certificates for 127.0.0.1, valid for an hour."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.cert = folder / f"{name}.pem"
        made = self._signed(self._name, self._key, authority=True)
        self.cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, password: bytes = b"", address: str = "127.0.0.1") -> Pair:
        """Return a certificate with the common name `name`; its key has a password if one is given."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        pair = Pair(self._folder / f"{name}-cert.pem", self._folder / f"{name}-key.pem")
        made = self._signed(subject, key, address=address)
        pair.cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        pair.key.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
        )
        return pair

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        *,
        authority: bool = False,
        address: str = "127.0.0.1",
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(
                x509.BasicConstraints(ca=authority, path_length=0 if authority else None), critical=True
            )
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )


class SecureKafka:
    """A broker without security on `plain`, for the test itself, and with security on its other ports."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder / "certificates")
        self.client = self.authority.issue("worker")
        server = self.authority.issue("broker")
        store = folder / "certificates" / "store.pem"
        store.write_bytes(server.key.read_bytes() + server.cert.read_bytes())
        ports = [free_port() for _ in range(3)]
        #: Ports that require a certificate, a login over TLS, and a login without TLS.
        self.tls, self.login, self.clear = (f"127.0.0.1:{port}" for port in ports)
        self.broker = EmbeddedKafka(
            folder / "data",
            properties={
                "ssl.keystore.type": "PEM",
                "ssl.keystore.location": str(store),
                "ssl.truststore.type": "PEM",
                "ssl.truststore.location": str(self.authority.cert),
                "listener.name.tls.ssl.client.auth": "required",
                "listener.name.login.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
                "listener.name.login.plain.sasl.jaas.config": (
                    f'{MODULES}.plain.PlainLoginModule required user_alice="plain-alice";'
                ),
                **{
                    f"listener.name.{name}.scram-sha-{bits}.sasl.jaas.config": (
                        f"{MODULES}.scram.ScramLoginModule required;"
                    )
                    for name, bits in (("login", 256), ("login", 512), ("clear", 512))
                },
                "listener.name.login.oauthbearer.sasl.jaas.config": (
                    f"{MODULES}.oauthbearer.OAuthBearerLoginModule required "
                    'unsecuredLoginStringClaim_sub="broker";'
                ),
                "listener.name.clear.sasl.enabled.mechanisms": "SCRAM-SHA-512",
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": ";".join(f"User:{name}" for name in SUPER_USERS),
            },
            listeners=[
                Listener("TLS", ports[0], ports[0], "SSL"),
                Listener("LOGIN", ports[1], ports[1], "SASL_SSL"),
                Listener("CLEAR", ports[2], ports[2], "SASL_PLAINTEXT"),
            ],
        )

    @property
    def plain(self) -> str:
        """The address without security, whose clients have all rights."""
        return self.broker.bootstrap

    @cached_property
    def admin(self) -> AdminClient:
        """Return a client with all rights."""
        return AdminClient({"bootstrap.servers": self.plain, "log_level": 0})

    def add_user(self, name: str, password: str = PASSWORD) -> None:
        """Create a user for both SCRAM mechanisms, without any rights."""
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            change = UserScramCredentialUpsertion(
                name, ScramCredentialInfo(mechanism, 4096), password.encode()
            )
            (made,) = self.admin.alter_user_scram_credentials([change]).values()
            made.result(20)

    def grant(self, user: str, *rights: "Right") -> None:
        """Give a user rights."""
        for future in self.admin.create_acls([right.binding(user) for right in rights]).values():
            future.result(20)

    def revoke(self, user: str, right: "Right") -> None:
        """Take a right from a user."""
        (future,) = self.admin.delete_acls([right.filter(user)]).values()
        assert len(future.result(20)) == 1

    def tls_settings(self) -> dict[str, Any]:
        """Return the settings of a worker with a certificate."""
        return {
            "kafka_security_protocol": "SSL",
            "kafka_ssl_ca_file": self.authority.cert,
            "kafka_ssl_cert_file": self.client.cert,
            "kafka_ssl_key_file": self.client.key,
        }

    def login_settings(self, user: str = "alice", mechanism: str = "SCRAM-SHA-512") -> dict[str, Any]:
        """Return the settings of a worker that logs in over TLS, without the password."""
        return {
            "kafka_security_protocol": "SASL_SSL",
            "kafka_ssl_ca_file": self.authority.cert,
            "kafka_sasl_mechanism": mechanism,
            "kafka_sasl_user": user,
        }


class Right:
    """A right on a topic, a group or the cluster: for one name, or for all names that begin with it."""

    def __init__(self, kind: str, name: str, operation: str, *, prefixed: bool = False) -> None:
        self._kind = ResourceType[kind]
        self._name = name
        self._pattern = ResourcePatternType.PREFIXED if prefixed else ResourcePatternType.LITERAL
        self._operation = AclOperation[operation]

    def binding(self, user: str) -> AclBinding:
        """Return the form in which the right is granted."""
        return AclBinding(*self._parts(user))

    def filter(self, user: str) -> AclBindingFilter:
        """Return the filter that finds the right again."""
        return AclBindingFilter(*self._parts(user))

    def _parts(self, user: str) -> tuple[Any, ...]:
        who = f"User:{user}"
        return (
            self._kind, self._name, self._pattern, who, "*", self._operation, AclPermissionType.ALLOW,
        )  # fmt: skip


def unsecured_token(subject: str, life_s: float = 3600.0) -> str:
    """Return an unsigned token, which Kafka accepts if nothing else is configured."""

    def part(fields: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")

    now = time.time()
    return f"{part({'alg': 'none'})}.{part({'sub': subject, 'iat': now - 5, 'exp': now + life_s})}."


@contextmanager
def secure_kafka(folder: Path) -> Iterator[SecureKafka]:
    """Provide a started broker with the user alice, who has all rights; stop it after the block."""
    kafka = SecureKafka(folder)
    with kafka.broker:
        kafka.add_user("alice")
        yield kafka
