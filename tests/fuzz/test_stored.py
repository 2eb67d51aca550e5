"""A bounded run of the comparison with Kafka's Java consumer, and of the attacks."""

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from stream_app.lab.broker import EmbeddedKafka
from tests.attack import batches
from tests.attack.worker import attacked
from tests.integration.harness import workers

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(600)]


def test_what_the_broker_stores_is_read_as_java_reads_it(kafka: EmbeddedKafka) -> None:
    """A minute of mutants: what Java's consumer delivers we deliver, what we set aside it refuses or skips too."""
    pytest.importorskip("jpype", reason="JPype runs Kafka's own consumer: install the extra `dev`")
    from tests.fuzz.stored import fuzz

    found = fuzz(kafka.bootstrap, 5, seconds=60)
    assert found["accepted"] >= 300, found  # type: ignore[operator]


async def test_attacks_on_a_worker(kafka: EmbeddedKafka, prefix: str) -> None:
    """Batches of odd shapes, unreadable ones and bombs: the worker lives, answers, and keeps to its memory."""
    with (
        TemporaryDirectory() as folder,
        workers() as start,
        closing(await attacked(kafka, start, Path(folder), prefix)) as it,
    ):
        for attack in (*batches.SHORT, batches.bombs):
            attack(it)


async def test_the_smallest_budget_stops_no_topic(kafka: EmbeddedKafka, prefix: str) -> None:
    """Beside a topic with batches of megabytes stands one with small ones: both are processed to their ends."""
    small = {"buffer_bytes": 1 << 20, "buffered_records": 1000}
    with (
        TemporaryDirectory() as folder,
        workers() as start,
        closing(await attacked(kafka, start, Path(folder), prefix, **small)) as it,
    ):
        batches.large_beside_small(it)
