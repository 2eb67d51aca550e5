"""The shares of the partitions in a micro-batch."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from stream_app.contract.events import Event, encode_json
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.processing.processor import SHARE, shares
from stream_app.processing.shop_processor import ShopProcessor
from tests.stream_app.helpers import SETTINGS
from tests.stream_app.strategies import T0


@given(st.dictionaries(st.integers(0, 40), st.integers(1, 9000), min_size=1), st.integers(1, 8192))
def test_no_room_is_wasted_and_nobody_is_left_out(buffered: dict[int, int], room: int) -> None:
    """Each gets at least an even share, or all it has; together they fill the micro-batch, or have no more."""
    found = shares(buffered, room)
    assert found.keys() == buffered.keys()
    assert sum(found.values()) >= min(room, sum(buffered.values()))
    for partition, have in buffered.items():
        assert min(have, max(SHARE, room // len(buffered))) <= found[partition] <= have


def test_where_there_are_few_the_room_is_not_exceeded() -> None:
    """The third one gets what the other two leave."""
    assert shares({0: 10, 1: 5000, 2: 100}, 4096) == {0: 10, 2: 100, 1: 3986}
    assert shares({0: 5000, 1: 5000}, 4096) == {0: 2048, 1: 2048}


def test_a_partition_that_is_behind_alone_has_the_micro_batch() -> None:
    """Partitions with few events are taken completely."""
    processor = ShopProcessor(
        msgspec.structs.replace(SETTINGS, max_batch=2048, resident_users=9000), None, partitions=4
    )
    for partition, n in enumerate([5, 3000, 7, 6]):
        processor.assign(partition, [0] * len(INPUT_TOPICS))
        processor.restored(partition)
        values = [encode_json(Event(user_id=f"u{i}", ts=T0 + i, item_id="a")) for i in range(n)]
        records = [Record(INPUT_TOPICS[0], partition, i, T0 + i, b"u%d" % i, v) for i, v in enumerate(values)]
        processor.ingest(partition, 0, RecordColumns.of(records), n)
    taken = {partition: len(events) for partition, events in processor.take(0.0, ended=True)}
    assert taken == {0: 5, 1: 2048 - 18, 2: 7, 3: 6}
