"""A revoke while the broker does not answer: the worker gives its checkpoint up in time, and no event is lost."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from stream_app.agents.shop import create_app
from stream_app.contract.topics import SHOP
from stream_app.lab.broker import EmbeddedKafka
from tests.faults.steps import END_TXN, PRODUCE
from tests.integration.answered import ids, ids_of
from tests.integration.faust_member import Member, until
from tests.integration.harness import Reader, clicks, make_topics, produce, settings_for
from tests.integration.holding import Holding, holding_before, kafka_for_a_proxy

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(180)]

SESSION_MS = 6000


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A broker with a second listener, for the proxy."""
    with kafka_for_a_proxy(tmp_path_factory.mktemp("kafka")) as made:
        yield made


@pytest.fixture
async def gate(broker: EmbeddedKafka) -> AsyncIterator[Holding]:
    """The proxy, which holds requests."""
    async with holding_before(broker) as holding:
        yield holding


@pytest.mark.parametrize(("guarantee", "key"), [("exactly_once", END_TXN), ("at_least_once", PRODUCE)])
async def test_a_broker_that_hangs_while_partitions_are_revoked(
    broker: EmbeddedKafka, gate: Holding, prefix: str, tmp_path: Path, guarantee: str, key: int
) -> None:
    """The group does not wait for the worker; its transaction is aborted, and its events are processed again."""
    await make_topics(broker.bootstrap, prefix)
    settings = settings_for(
        f"127.0.0.1:{gate.port}", prefix, web="", data_dir=str(tmp_path / "data"), guarantee=guarantee,
        session_timeout_ms=SESSION_MS, heartbeat_ms=500, commit_interval_ms=60_000,
    )  # fmt: skip
    app = create_app(settings, None, partitions=4)
    guest = Member(broker.bootstrap, tmp_path, settings.group, SHOP.of(settings).inputs, moves=False)
    records = clicks(400)
    reader = Reader(broker.bootstrap, f"{prefix}predictions")
    await app.start()
    try:
        await until("the state to be read", lambda: app.pipeline.health.ready()[1]["recovered"] == "ok")
        gate.hold_next(key)
        await asyncio.to_thread(produce, broker.bootstrap, prefix, records)
        await until("the events", lambda: len(app.pipeline.processor.rows) == 40)
        with capture_logs() as logs:
            await guest.app.start()
            await until("the request to be held", gate.held.is_set)
            await until(
                "the guest to have its share", lambda: guest.settled() and guest.consumer.assignment()
            )
        assert [line for line in logs if "is given up" in line["event"]]
        gate.let_go()
        await guest.app.stop()
        await asyncio.to_thread(
            reader.read_until, "all predictions", lambda m: set(ids(m)) >= ids_of(records, prefix)
        )
        pipeline = app.pipeline
        await until(
            "all partitions", lambda: len(pipeline.processor.partitions) == 4 and pipeline.health.ready()[0]
        )
        if guarantee == "exactly_once":
            await asyncio.to_thread(reader.read_to_end)
            assert set(ids(reader.messages).values()) == {1}
        names, end = [f"u{p}-{n}" for p in range(4) for n in range(10)], time.monotonic() + 30
        while {user and user["events"] for user in [await pipeline.look_up(name) for name in names]} != {10}:
            assert time.monotonic() < end, "waited 30 s for 10 events of each user"
            await asyncio.sleep(0.1)
        assert app.crash_reason is None
    finally:
        reader.close()
        gate.let_go()
        await app.stop()
