"""Reads the inputs and outputs of the worker, without joining its consumer group, and keeps the statistics."""

import asyncio
import re
import time
from collections import Counter, defaultdict, deque
from typing import Any

import msgspec
import numpy as np
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stream_app.contract.outputs import REASON_HEADER, Flag, Prediction
from stream_app.contract.records import INPUT_TOPICS
from stream_app.lab.demo.measures import AnswerTimes, FlagMatch, NextItems, Rate
from stream_app.lab.demo.plan import DemoError
from stream_app.lab.demo.processes import DemoWorker
from stream_app.lab.demo.truth import Truth

_OUTPUTS = ("predictions", "flags", "dead-letters")
#: Time limit and size of a fetch. The broker's timestamps are measured, so reading later does not change the
#: result, but reading each record at once would take CPU time from the worker.
_WAIT_MS, _WAIT_BYTES = 250, 256 * 1024
_SHOWN = 5
_SAMPLE = re.compile(rb"^foreclick_(\w+?)(?:\{[^}]*\})? ([0-9.e+-]+)$", re.MULTILINE)


class Watch:
    """The statistics of the live traffic, updated by `read` and `scrape`."""

    def __init__(self, truth: Truth, popular: list[str], partitions: int) -> None:
        self.truth = truth
        self.answers = AnswerTimes(len(truth))
        self.items = NextItems(popular)
        self.flags = FlagMatch()
        self.dead: Counter[str] = Counter()  #: by reason
        self.worker: dict[str, float] = {}  #: sums of the worker's metrics by name
        self.predictions = self.flagged = 0
        self.last_predictions: deque[Prediction] = deque(maxlen=_SHOWN)
        self.last_flags: deque[Flag] = deque(maxlen=_SHOWN)
        self.event_rate, self.prediction_rate = Rate(), Rate()
        self._partitions = partitions
        self._prediction = msgspec.json.Decoder(Prediction)
        self._flag = msgspec.json.Decoder(Flag)

    @property
    def lag(self) -> int:
        """Records that the worker has not processed yet, from its own metrics."""
        return int(self.worker.get("consumer_lag_records", 0))

    async def read(self, bootstrap: str, stop: asyncio.Event) -> None:
        """Read all topics from their beginning until `stop` is set. Raises DemoError if the broker fails."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=bootstrap,
            group_id=None,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=_WAIT_MS,
            fetch_min_bytes=_WAIT_BYTES,
        )
        try:
            await consumer.start()
            consumer.assign(
                [
                    TopicPartition(topic, p)
                    for topic in (*INPUT_TOPICS, *_OUTPUTS)
                    for p in range(self._partitions)
                ]
            )
            while not stop.is_set():
                fetched = await consumer.getmany(timeout_ms=_WAIT_MS)
                for place, records in fetched.items():
                    self._take(place.topic, place.partition, records)
                # Give the view time to draw: many batches may be ready at once.
                await asyncio.sleep(0.02)
        except KafkaError as error:
            raise DemoError(f"the broker at {bootstrap} stopped answering: {error}") from error
        finally:
            await consumer.stop()

    async def scrape(self, worker: DemoWorker) -> None:
        """Read the worker's metrics; keep the last ones if it does not answer in time."""
        try:
            page = await asyncio.to_thread(worker.get, "/metrics", 2.0)
        except OSError:
            return
        sums: defaultdict[str, float] = defaultdict(float)
        for name, value in _SAMPLE.findall(page.encode()):
            sums[name.decode()] += float(value)
        self.worker = dict(sums)

    def mark(self) -> tuple[float, float]:
        """Return the current events and predictions per second."""
        now, events = time.monotonic(), int(self.answers.present.sum())
        return self.event_rate.mark(now, events), self.prediction_rate.mark(now, self.predictions)

    def _take(self, topic: str, partition: int, records: list[Any]) -> None:
        if topic in INPUT_TOPICS:
            first = self.truth.row(topic, partition, records[0].offset)
            last = self.truth.row(topic, partition, records[-1].offset)
            if first < 0 or last - first != len(records) - 1:
                raise DemoError(
                    f"topic {topic} holds records that the demo did not send: run it again with --fresh"
                )
            times = np.array([r.timestamp for r in records], np.int64)
            self.answers.appended(np.arange(first, last + 1), times)
        elif topic == "predictions":
            self._take_predictions(records)
        elif topic == "flags":
            for record in records:
                flag = self._flag.decode(record.value)
                self.flagged += 1
                self.flags.add(flag.user_id, (reason.code for reason in flag.reasons))
                self.last_flags.append(flag)
        else:
            for record in records:
                self.dead[dict(record.headers).get(REASON_HEADER, b"?").decode()] += 1

    def _take_predictions(self, records: list[Any]) -> None:
        truth, decode = self.truth, self._prediction.decode
        predictions = [decode(record.value) for record in records]
        rows = [truth.row_of_id(each.id) for each in predictions]
        for row, each in zip(rows, predictions, strict=True):
            item = int(truth.item[row]) if row >= 0 else -1
            ids = [scored.item_id for scored in each.items]
            self.items.add(each.user_id, truth.items[item] if item >= 0 else None, ids)
        times = np.array([r.timestamp for r in records], np.int64)
        self.answers.answered(np.array(rows, np.int64), times)
        self.predictions += len(records)
        self.last_predictions.extend(predictions[-2:])
