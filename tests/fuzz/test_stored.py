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
    """A minute of mutants: ours delivers what Java's consumer does; Java's refuses or skips what ours sets aside."""
    pytest.importorskip("jpype", reason="JPype runs Kafka's own consumer: install the extra `dev`")
    from tests.fuzz.stored import fuzz

    found = fuzz(kafka.bootstrap, 5, seconds=60)
    assert found["accepted"] >= 300, found  # type: ignore[operator]


async def test_attacks_on_a_worker(kafka: EmbeddedKafka, prefix: str) -> None:
    """The worker survives odd and unreadable batches and bombs, answers, and keeps its memory limit."""
    with (
        TemporaryDirectory() as folder,
        workers() as start,
        closing(await attacked(kafka, start, Path(folder), prefix)) as it,
    ):
        for attack in (*batches.SHORT, batches.bombs):
            attack(it)


async def test_the_smallest_budget_stops_no_topic(kafka: EmbeddedKafka, prefix: str) -> None:
    """A topic with batches of megabytes and one with small batches are both processed completely."""
    small = {"buffer_bytes": 1 << 20, "buffered_records": 1000}
    with (
        TemporaryDirectory() as folder,
        workers() as start,
        closing(await attacked(kafka, start, Path(folder), prefix, **small)) as it,
    ):
        batches.large_beside_small(it)
