"""The processor without a broker: the same stream gives the same answers, whatever happens around it."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.contract.events import Event, encode_json, encode_msgpack
from stream_app.contract.outputs import Flag
from stream_app.contract.record_columns import RecordColumns
from stream_app.contract.records import INPUT_TOPICS, Record
from stream_app.decoding.name_table import stable_hash
from stream_app.processing import shop_processor as engine_module
from stream_app.settings.flag_limits import Rules
from stream_app.state.row_layout import ROW
from stream_app.state.users import META_KEY
from tests.stream_app.colliding_names import colliding
from tests.stream_app.helpers import SETTINGS, Worker, changelog, move, same, state_keys, with_trouble
from tests.stream_app.strategies import DAY, STEPS, T0, Happening, happenings, record_of, topics_of

streams = happenings()
#: Possible actions: a topic gets some records, a micro-batch is taken, state is written, the worker is replaced.
moves = st.lists(
    st.one_of(
        st.tuples(st.just("feed"), st.integers(0, 2), st.integers(1, 9)),
        st.tuples(st.just("step"), st.just(0), st.just(0)),
        st.tuples(st.just("checkpoint"), st.just(0), st.just(0)),
        st.tuples(st.just("rewind"), st.just(0), st.just(0)),
        st.tuples(st.just("expire"), st.just(0), st.just(0)),
        st.tuples(st.just("restart"), st.integers(0, 9), st.integers(1, 5)),
    ),
    max_size=40,
)


trouble = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 20)), max_size=4)


def click(ts: int, user: int = 0, event_id: int = 0) -> Happening:
    return Happening(user, 0, ts, 1, event_id, 1.0, 1)


def expire_for_good(*workers: Worker) -> None:
    """Expired users are removed, and so are their tombstones once they are written."""
    for worker in workers:
        worker.processor.expire(0)
        worker.checkpoint()
        worker.processor.expire(0)


@given(streams, trouble, moves, st.integers(1, 20))
@settings(max_examples=150, deadline=None)
def test_same_stream_same_answer(
    stream: list[Happening], bad: list[tuple[int, int]], moves: list[tuple[str, int, int]], batch: int
) -> None:
    """Arrival, micro-batches, rebalances, expiry and restarts from any commit change no output and no row."""
    topics = with_trouble(topics_of(stream), bad)
    plain = Worker(topics, msgspec.structs.replace(SETTINGS, max_batch=1000)).finish()
    worker = Worker(topics, msgspec.structs.replace(SETTINGS, max_batch=batch))
    for what, a, b in moves:
        move(worker, what, a, b)
    worker.finish()
    # Expired users may be removed already in one of them, with their earlier offsets.
    expire_for_good(plain, worker)
    same(plain, worker, ignore=("source",))
    assert len([1 for topic, _ in plain.outputs if topic == "dead-letters"]) == len(bad)
    restored = Worker(topics)
    restored.start(worker.committed[-1], worker.log)
    restored.processor.expire(0)  # their tombstones would come with the next checkpoint
    assert restored.rows() == worker.rows()
    assert restored.ends() == worker.ends()


@given(streams, st.lists(st.tuples(st.integers(0, 2), st.integers(1, 9), st.floats(0, 1)), max_size=12))
@settings(max_examples=100, deadline=None)
def test_a_crash_while_state_is_written(stream: list[Happening], times: list[tuple[int, int, float]]) -> None:
    """A checkpoint of which only a part was written is neither lost nor applied twice."""
    topics = topics_of(stream)
    plain, worker = Worker(topics).finish(), Worker(topics)
    for topic_index, n, share in times:
        worker.feed(topic_index, 3 * n)
        worker.feed((topic_index + 1) % 3, 3 * n)
        worker.feed((topic_index + 2) % 3, n)
        worker.step()
        worker.crash_during_checkpoint(share)
        worker.feed(topic_index, n)
        worker.step()
        worker.checkpoint()
    same(plain, worker.finish())


@given(streams, st.integers(0, 30), st.lists(st.integers(0, 20), min_size=3, max_size=3))
@settings(max_examples=100, deadline=None)
def test_records_that_come_during_recovery_stay(stream: list[Happening], n: int, early: list[int]) -> None:
    """Records fetched from the committed offsets while the state is read are processed afterwards."""
    topics = topics_of(stream)
    plain, worker = Worker(topics).finish(), Worker(topics)
    for topic_index in range(3):
        worker.feed(topic_index, n)
    worker.step()
    worker.checkpoint()
    log, positions = worker.log, worker.committed[-1]
    worker.start(positions, log=[])
    worker.processor.drop(0)
    worker.processor.assign(0, [0, 0, 0])
    for topic_index in range(3):
        worker.feed(topic_index, early[topic_index])
    assert worker.processor.step(0.0) is None
    if log:
        worker.processor.restore(0, changelog(log))
    worker.processor.restored(0)
    same(plain, worker.finish())


@given(
    happenings(users=12, max_size=80, steps=(*STEPS[:8], -1, -400_000, 31 * DAY, -40 * DAY)),
    moves,
    st.integers(1, 50),
    st.sampled_from([3, 9]),
)
@settings(max_examples=150, deadline=None)
def test_who_is_evicted_depends_on_the_stream_alone(
    stream: list[Happening], moves: list[tuple[str, int, int]], batch: int, room: int
) -> None:
    """With room for few users the same ones are forgotten for any micro-batches, expiry and restarts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "EVICT_EVERY", 8)
        limits = msgspec.structs.replace(SETTINGS, resident_users=room)
        topics = topics_of(stream)
        plain = Worker(topics, msgspec.structs.replace(limits, max_batch=1)).finish()
        worker = Worker(topics, msgspec.structs.replace(limits, max_batch=batch))
        for what, a, b in moves:
            move(worker, what, a, b)
            assert len(worker.processor.users) <= room + 8
        worker.finish()
        expire_for_good(plain, worker)
        same(plain, worker, ignore=("source",))


@pytest.mark.parametrize("expires", [False, True])
def test_who_expired_takes_no_place_of_another(expires: bool) -> None:
    """At the limit of users, expired users are removed first, whether or not others expired before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "EVICT_EVERY", 4)
        stream = [click(T0, 0), click(T0, 1), click(T0 - 40 * DAY, 2), click(T0, 1), click(T0, 0)]
        worker = Worker(topics_of(stream), msgspec.structs.replace(SETTINGS, resident_users=2, max_batch=3))
        worker.processor.merge(0).finish(1)
        worker.processor.merge(0).finish(2)
        worker.feed(0, 3)
        worker.step()
        if expires:
            worker.checkpoint()
            assert worker.processor.expire(0) == 1
        worker.finish()
        assert {u: int(np.frombuffer(row, ROW)[0]["events"]) for u, row in worker.rows().items()} == {
            "u0": 2,
            "u1": 2,
        }


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_a_large_micro_batch_evicts_where_a_small_one_does(batch: int) -> None:
    """With many new users in one micro-batch, the same users stay with the same state as with one event at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "EVICT_EVERY", 8)
        stream = [click(T0 + i, user=i % 30) for i in range(64)]
        limits = msgspec.structs.replace(SETTINGS, resident_users=10, max_batch=batch)
        worker = Worker(topics_of(stream), limits).finish()
        events = {u: int(np.frombuffer(row, ROW)[0]["events"]) for u, row in worker.rows().items()}
        assert events == {f"u{i % 30}": 1 for i in range(54, 64)}


def test_a_restore_never_needs_more_room_than_the_worker_had() -> None:
    """A checkpoint with many removed users is read back one record at a time within the same limit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "EVICT_EVERY", 4)
        limits = msgspec.structs.replace(SETTINGS, resident_users=20, max_batch=4)
        stream = [Happening(u, 0, T0 + u, 1, 0, 1.0, 1) for u in range(120)]
        worker = Worker(topics_of(stream), limits)
        worker.feed(0, 60)
        for topic_index in (1, 2):
            worker.processor.merge(0).finish(topic_index)
        while worker.step():
            pass
        worker.checkpoint()
        worker.finish()
        made = worker.checkpoint()
        assert made is not None
        assert (
            int((made.records.value_bytes < 0).sum()) == 60
        )  # 20 that were in the log, 40 that were added and removed since
        rows = worker.rows()
        worker.start(worker.committed[-1], at_once=1)
        assert worker.rows() == rows


def test_duplicates_and_late_events_are_counted() -> None:
    """A duplicate has no output and changes no window; a late event has one, is counted and marked."""
    stream = [
        click(T0, event_id=5),
        click(T0, event_id=5),
        click(T0 - 300_001),
        click(T0 + 1, user=1, event_id=5),
    ]
    worker = Worker(topics_of(stream)).finish()
    assert worker.totals.tolist() == [1, 1, 0, 0]
    assert worker.order == ["clicks-0-0", "clicks-0-2", "clicks-0-3"]
    row = np.frombuffer(worker.rows()["u0"], ROW)[0]
    assert (row["events"], row["late"], row["source"].tolist()) == (2, 1, [2, -1, -1])


@pytest.mark.parametrize("encodes", [[encode_json], [encode_msgpack], [encode_json, encode_msgpack]])
def test_items_crafted_to_collide_count_as_several(encodes: list[Callable[[Event], bytes]]) -> None:
    """Names with the same hash are flagged like others in either decoder, and a name is the same in both."""

    def flags(names: Sequence[str], restarted: bool = False) -> list[tuple[Any, ...]]:
        events = [Event("u", T0 + 60_000 * i, item_id=name) for i, name in enumerate(names)]
        values = [encodes[i % len(encodes)](e) for i, e in enumerate(events)]
        log = [
            Record("clicks", 0, i, e.ts, b"u", v) for i, (e, v) in enumerate(zip(events, values, strict=True))
        ]
        worker = Worker([log, [], []])
        if restarted:
            worker.feed(0, 4)
            for other in (1, 2):
                worker.processor.merge(0).finish(other)
            while worker.step() is not None:
                pass
            assert worker.checkpoint() is not None
            worker.start(worker.committed[-1])
        said = [
            msgspec.json.decode(v, type=Flag) for (t, _), v in worker.finish().outputs.items() if t == "flags"
        ]
        return [(f.id, [(r.code, r.value) for r in f.reasons]) for f in said]

    crafted = [name.decode() for name in colliding(5)]
    assert len({stable_hash(name) for name in crafted}) == 1
    plain = [f"item {i}" for i in range(len(crafted))]
    assert flags(crafted) == flags(plain) == [(f"clicks-0-{i}", [("many_items", i + 1)]) for i in (3, 4)]
    assert not flags([crafted[0]] * 8)
    # A restart forgets the checks of the events before it, not their items: honest answers stay.
    assert flags(plain, restarted=True) == flags(plain)
    assert [id_ for id_, _ in flags([*crafted[:4], *crafted[:4]], restarted=True)] == [
        "clicks-0-3",
        "clicks-0-7",
    ]


def test_predictions_of_a_user_come_in_order() -> None:
    """Across micro-batches the predictions are in the order of event time, ties by topic."""
    stream = [
        Happening(0, topic_index, T0 + at, 1, 0, 1.0, 1) for at in range(6) for topic_index in (2, 1, 0)
    ]
    order = [f"{INPUT_TOPICS[topic_index]}-0-{at}" for at in range(6) for topic_index in range(3)]
    assert Worker(topics_of(stream)).finish().order == order


def test_a_checkpoint_holds_each_changed_user_once() -> None:
    """A checkpoint has the users changed since the last one, then the partition's record; nothing without changes."""
    worker = Worker(topics_of([click(T0 + i, user=i % 3) for i in range(9)]))
    worker.processor.merge(0).finish(1)
    worker.processor.merge(0).finish(2)
    assert worker.checkpoint() is not None
    assert worker.checkpoint() is None
    worker.feed(0, 7)
    worker.step()
    made = worker.checkpoint()
    assert made is not None
    assert state_keys(made) == {b"u0", b"u1", b"u2"}
    assert made.records.each()[-1][0] == META_KEY
    assert made.positions == [7, 0, 0]
    worker.feed(0, 1)
    worker.step()
    made = worker.checkpoint()
    assert made is not None
    assert state_keys(made) == {b"u1"}


def test_expired_users_leave_a_tombstone() -> None:
    """A silent user is forgotten, with a tombstone in the next checkpoint; a user who returns has a row."""
    worker = Worker(topics_of([click(T0, 0), click(T0, 1), click(T0 + 31 * DAY, 2), click(T0 + 31 * DAY, 1)]))
    worker.processor.merge(0).finish(1)
    worker.processor.merge(0).finish(2)
    worker.feed(0, 3)
    worker.step()
    assert worker.processor.expire(0) == 0  # not yet written to the log
    worker.checkpoint()
    assert worker.processor.expire(0) == 2
    worker.feed(0, 1)
    worker.step()
    made = worker.checkpoint()
    assert made is not None
    written = dict(made.records.each())
    assert written[b"u0"] is None
    assert written[b"u1"] is not None
    assert len(worker.processor.users) == 2


def test_dead_letters_of_a_partition() -> None:
    """A bad record is written unchanged to its own partition, and stops nothing."""
    good = record_of(click(T0), 1)
    bad = Record("clicks", 0, 0, T0, b"k", b"\x00", (("h", b"v"),))
    worker = Worker([[bad, good], [], []]).finish()
    assert worker.outputs["dead-letters", "clicks-0"] == b"\x00"
    assert worker.order == ["clicks-0-1"]
    assert worker.processor.merge(0).positions == [2, 0, 0]


@given(st.lists(st.tuples(st.integers(0, 2), streams), min_size=1, max_size=3, unique_by=lambda x: x[0]))
@settings(max_examples=30, deadline=None)
def test_partitions_do_not_touch_each_other(parts: list[tuple[int, list[Happening]]]) -> None:
    """Several partitions in one processor give the same as each alone; dropping one does not affect the others."""
    processor = engine_module.ShopProcessor(SETTINGS, partitions=3)
    said: dict[int, set[bytes]] = {n: set() for n, _ in parts}
    for n, stream in parts:
        processor.assign(n, [0, 0, 0])
        processor.restored(n)
        for topic_index, log in enumerate(topics_of(stream, n)):
            processor.ingest(n, topic_index, RecordColumns.of(log), len(log))
    while (output := processor.step(0.0, ended=True)) is not None:
        for (_, n), messages in output.outputs.items():
            said[n] |= {body for _, body, _ in messages if body}
    for n, stream in parts:
        alone = Worker(topics_of(stream)).finish()
        renamed = {body.replace(b"-0-", f"-{n}-".encode(), 1) for body in alone.outputs.values()}
        assert said[n] == renamed
        processor.users.rows["flagged"] = processor.users.flagged
        ours = {u: processor.users.rows[slot].tobytes() for u, slot in processor.users.mapping(n).items()}
        assert ours == alone.rows()
        processor.drop(n)
        assert n not in processor.partitions
    assert len(processor.users) == 0


def test_the_latest_prediction_of_each_user() -> None:
    """`emit = latest` gives one prediction for a user's last event of a micro-batch."""
    settings_: Any = msgspec.structs.replace(SETTINGS, emit="latest", max_batch=100, rules=Rules())
    stream = [click(T0 + i, user=i % 2) for i in range(5)]
    worker = Worker(topics_of(stream), settings_).finish()
    assert worker.order == ["clicks-0-3", "clicks-0-4"]
