"""The work per event is bounded: a new slow path shows as calls that grow with the events, not as time.

The tests count calls of Python and C functions, as `sys.setprofile` reports them. A micro-batch
needs some hundreds of them; a single event must need none.
"""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from bench.jobs.environment import job_of
from bench.jobs.j1 import Counts
from model.serving.runtime import Runtime
from stream_app.contract.events import Event, encode_json
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.processing.processor import Processor
from stream_app.processing.shop_processor import ShopProcessor
from stream_app.settings import Settings
from tests.model.tiny import tiny_model
from tests.stream_app.strategies import T0, a_decoder

FEW, MANY = 1000, 5000
#: Largest number of calls per event, besides those of its micro-batch.
BOUND = 0.02
USERS = 200


def calls(work: Callable[[], Any]) -> Counter[str]:
    """Count the calls of each function during an action."""
    seen: Counter[str] = Counter()

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call":
            seen[f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_qualname}"] += 1
        elif event == "c_call":
            seen[f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {arg.__name__}"] += 1

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(before)
    return seen


def job_records(n: int, first: int) -> RecordColumns:
    value = b'{"event_id":"%08d-00","user_id":"u%d","event_type":"click","item_id":%d,"ts":%d.25}'
    return RecordColumns.of(
        [
            Record(
                "in", 0, i, 0, b"u%d" % (i % USERS), value % (i, i % USERS, i % 90, 1_760_000_000 + i // 10)
            )
            for i in range(first, first + n)
        ]
    )


def shop_records(n: int, first: int) -> RecordColumns:
    events = (
        Event(f"u{i % USERS}", T0 + i, f"e{i}", f"i{i % 9}", "c1", price=1.5) for i in range(first, first + n)
    )
    return RecordColumns.of(
        [Record("clicks", 0, first + i, T0, e.user_id.encode(), encode_json(e)) for i, e in enumerate(events)]
    )


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    """A small trained model."""
    return Runtime.load(tiny_model(tmp_path_factory.mktemp("work") / "model"), "cpu")


def cost(processor: Processor, records: Callable[[int, int], RecordColumns], topics: int) -> dict[str, float]:
    """Return the calls of each function per event, from two micro-batches of different size."""
    processor.assign(0, [0] * topics)
    processor.restored(0)
    for topic_index in range(1, topics):
        processor.merge(0).finish(topic_index)
    at, seen = 0, []
    for n in (MANY, MANY, FEW, MANY, FEW, MANY):  # the first ones have all users, and compile what is needed
        batch = records(n, at)
        at += n

        def work(batch: RecordColumns = batch, end: int = at, n: int = n) -> None:
            assert processor.ingest(0, 0, batch, end) == []
            out = processor.step(0.0, ended=True)
            assert out is not None
            assert sum(len(columns) for *_, columns in out.columns) == n
            made = processor.checkpoint(0, 1)
            assert made is not None

        seen.append(calls(work))
    few, many = seen[-2], seen[-1]
    return {name: (many[name] - few[name]) / (MANY - FEW) for name in many | few}


def check(found: dict[str, float]) -> None:
    total = sum(max(0.0, each) for each in found.values())
    worst = sorted(found.items(), key=lambda x: -x[1])[:5]
    assert total < BOUND, f"{total:.3f} calls per event: {worst}"


def test_a_counted_event_costs_no_call(tmp_path: Path) -> None:
    """J1: decode, count, encode and checkpoint work on columns."""
    environment = {"BROKER": "127.0.0.1:1", "IN": "in", "OUT": "out", "RID": "r", "STATE": str(tmp_path)}
    settings = job_of(environment, max_batch=MANY, resident_users=50_000)
    check(cost(Counts(settings, 1), job_records, 1))


def test_an_event_without_a_model_costs_no_call() -> None:
    """The product's processor: decode, merge, state, rules, encode, checkpoint."""
    settings = Settings(max_batch=MANY, resident_users=50_000)
    check(cost(ShopProcessor(settings, None, partitions=1), shop_records, len(INPUT_TOPICS)))


def test_an_event_with_a_model_costs_no_call(runtime: Runtime) -> None:
    """The same with the GRU and the ranking, and with many users, so that the GRU has few rounds."""
    settings = Settings(max_batch=MANY, resident_users=50_000)
    found = cost(ShopProcessor(settings, runtime, partitions=1), shop_records, len(INPUT_TOPICS))
    check({name: each for name, each in found.items() if "_rounds" not in name})


def test_the_counter_sees_a_slow_path() -> None:
    """The general decoder, which handles each record by itself, is far above the bound."""
    decoder = a_decoder()
    few, many = (calls(lambda n=n: decoder.decode_generally(0, list(shop_records(n, 0)))) for n in (10, 110))
    with pytest.raises(AssertionError, match="calls per event"):
        check({name: (many[name] - few[name]) / 100 for name in many})
