"""The merge of the three topics, compared with a naive merge event by event."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.contract.event_columns import EVENT, Events
from stream_app.state.merge import Merge

NOW, IDLE = 100.0, 1.0  # seconds; no topic becomes idle unless a test wants it

Key = tuple[int, int]  # topic, offset


def events(topic_index: int, times: Sequence[int], first: int = 0, step: int = 1) -> Events:
    """Return events of a topic; offsets from `first`, with gaps if `step` is more than one."""
    data = np.zeros(len(times), EVENT)
    data["time"] = data["timestamp"] = times
    data["event_type"] = topic_index
    data["offset"] = first + step * np.arange(len(times))
    return Events.of(data, [""] * len(times), [None] * len(times))


def keys(taken: Events | None) -> list[Key]:
    if taken is None:
        return []
    return list(zip(taken.data["event_type"].tolist(), taken.data["offset"].tolist(), strict=True))


def naive(topics: Sequence[Sequence[int]]) -> list[Key]:
    """Merge naively: always the head with the smallest time; ties in the order of the topics."""
    at, out = [0, 0, 0], []
    while heads := [(topics[k][at[k]], k) for k in range(3) if at[k] < len(topics[k])]:
        _, topic_index = min(heads)
        out.append((topic_index, at[topic_index]))
        at[topic_index] += 1
    return out


def add(merge: Merge, topic_index: int, times: Sequence[int]) -> None:
    """Return the next events of a topic, without gaps."""
    first = merge.read(topic_index)
    merge.add(topic_index, events(topic_index, times, first), first + len(times))


def drain(merge: Merge, limit: int = 1000) -> list[Key]:
    out = []
    while (taken := merge.take(limit, NOW, IDLE, ended=True)) is not None:
        assert 0 < len(taken) <= limit
        out += keys(taken)
    return out


times = st.lists(st.integers(0, 12), max_size=12)
three = st.tuples(times, times, times)
#: The next action: a topic gets some events, or some are taken.
moves = st.lists(
    st.tuples(st.sampled_from([0, 1, 2, "take", "take", "clear"]), st.integers(1, 5)), max_size=40
)  # fmt: skip


@given(three, moves, st.integers(1, 7))
@settings(max_examples=400, deadline=None)
def test_equals_a_merge_head_by_head(
    topics: tuple[list[int], ...], moves: list[tuple[int | str, int]], limit: int
) -> None:
    """For any arrival in any chunks, even with cleared buffers, events leave in the same order."""
    merge, out, wanted = Merge([0, 0, 0]), [], naive(topics)
    for what, n in moves:
        if isinstance(what, int):
            start = merge.read(what)
            add(merge, what, topics[what][start : start + n])
        elif what == "clear":
            merge.clear()
            assert merge.buffered == [0, 0, 0]
        else:
            taken = keys(merge.take(n, NOW, IDLE))
            assert len(taken) <= n
            out += taken
        assert out == wanted[: len(out)]
        done = [sum(topic_index == k for topic_index, _ in out) for k in range(3)]
        assert merge.positions == done
        assert [merge.read(k) - done[k] for k in range(3)] == merge.buffered
    for topic_index in range(3):
        add(merge, topic_index, topics[topic_index][merge.read(topic_index) :])
        merge.finish(topic_index)
    while taken := merge.take(limit, NOW, IDLE):
        out += keys(taken)
    assert out == wanted
    assert merge.positions == [len(t) for t in topics]
    assert merge.out_of_order == 0


@given(three, st.data())
@settings(max_examples=300, deadline=None)
def test_takes_all_that_is_sure_and_nothing_else(topics: tuple[list[int], ...], data: st.DataObject) -> None:
    """An event leaves exactly when no continuation of the topics could put another one before it."""
    known = [data.draw(st.integers(0, len(t))) for t in topics]
    merge = Merge([0, 0, 0])
    for topic_index in range(3):
        add(merge, topic_index, topics[topic_index][: known[topic_index]])
    taken = keys(merge.take(1000, NOW, IDLE))
    # The worst possible continuation of a topic: any number of events with its greatest time so far.
    worst = [[*topics[k][: known[k]], *[max(topics[k][: known[k]], default=-1)] * 50] for k in range(3)]
    sure = []
    for topic_index, offset in naive(worst):
        if offset >= known[topic_index]:
            break
        sure.append((topic_index, offset))
    assert taken == sure


@given(three, three, st.integers(0, 36))
@settings(max_examples=300, deadline=None)
def test_a_restart_anywhere_continues_the_order(
    topics: tuple[list[int], ...], earlier: tuple[list[int], ...], n: int
) -> None:
    """A new merge from the positions, or from earlier ones with `skip`, gives the rest in the same order."""
    merge = Merge([0, 0, 0])
    for topic_index in range(3):
        add(merge, topic_index, topics[topic_index])
    taken = merge.take(n, NOW, IDLE, ended=True) if n else None
    positions = merge.positions
    rest = naive(topics)[len(keys(taken)) :]
    assert drain(merge) == rest
    fresh = Merge(positions)
    behind = [min(p, len(e)) for p, e in zip(positions, earlier, strict=True)]
    ahead = Merge(behind)
    for topic_index in range(3):
        add(fresh, topic_index, topics[topic_index][positions[topic_index] :])
        add(ahead, topic_index, topics[topic_index][behind[topic_index] :])
    ahead.skip(positions)
    assert ahead.positions == fresh.positions == positions
    assert drain(fresh) == rest
    assert drain(ahead, 3) == rest


def test_skip_passes_what_was_never_read() -> None:
    """Skipping beyond what is buffered moves the next offset to read; skipping backwards moves nothing."""
    merge = Merge([5, 5, 5])
    add(merge, 0, [1, 2, 3])
    merge.skip([100, 7, 0])
    assert merge.buffered == [0, 0, 0]
    assert [merge.read(k) for k in range(3)] == [100, 7, 5]
    assert merge.positions == [100, 7, 5]


def test_ties_go_in_the_order_of_the_topics() -> None:
    """With equal times the click is first; a browse waits as long as a click of its time may arrive."""
    merge = Merge([0, 0, 0])
    add(merge, 1, [5])
    add(merge, 2, [5])
    add(merge, 0, [5])
    assert keys(merge.take(10, NOW, IDLE)) == [(0, 0)]
    add(merge, 0, [5, 6])
    assert keys(merge.take(10, NOW, IDLE)) == [(0, 1), (1, 0)]
    add(merge, 1, [6])
    assert keys(merge.take(10, NOW, IDLE)) == [(2, 0)]


def test_an_empty_topic_is_waited_for_until_it_was_idle_long_enough() -> None:
    """Events leave after `max_idle` and not before; events that arrive too late count as out of order."""
    merge = Merge([0, 0, 0])
    add(merge, 0, [10, 20])
    for topic_index in (1, 2):
        merge.idle(topic_index, True, NOW)
    assert merge.take(10, NOW + 0.99, IDLE) is None
    assert keys(merge.take(10, NOW + IDLE, IDLE)) == [(0, 0), (0, 1)]
    assert merge.emitted == 20
    add(merge, 1, [15, 25])
    merge.idle(0, True, NOW + 1)
    taken = merge.take(10, NOW + 3, IDLE)
    assert keys(taken) == [(1, 0), (1, 1)]
    assert merge.out_of_order == 1


def test_idle_time_starts_again_with_every_event() -> None:
    """A topic that has events, or something to read, is not idle, and after them its idle time starts again."""
    merge = Merge([0, 0, 0])
    add(merge, 0, [10])
    merge.finish(2)
    merge.idle(1, True, NOW)
    merge.idle(1, False, NOW + 0.5)
    merge.idle(1, True, NOW + 0.6)
    assert merge.take(10, NOW + 1.5, IDLE) is None
    merge.idle(1, True, NOW + 1.6)
    assert keys(merge.take(10, NOW + 1.6, IDLE)) == [(0, 0)]


def test_a_finished_topic_is_not_waited_for() -> None:
    """If two topics are finished, events of the third leave immediately."""
    merge = Merge([0, 0, 0])
    merge.finish(0)
    merge.finish(2)
    add(merge, 1, [3, 1, 2])
    assert keys(merge.take(2, NOW, IDLE)) == [(1, 0), (1, 1)]
    assert keys(merge.take(2, NOW, IDLE)) == [(1, 2)]


def test_positions_pass_offsets_without_events() -> None:
    """Compacted offsets and bad records are below the position once nothing waits before them."""
    merge = Merge([0, 0, 0])
    merge.add(0, events(0, [10, 11], first=3, step=4), 20)
    assert merge.positions == [3, 0, 0]
    assert merge.read(0) == 20
    assert merge.oldest_timestamp() == 10
    merge.add(1, Events.concat([]), 9)
    assert merge.positions == [3, 9, 0]
    merge.take(1, NOW, IDLE, ended=True)
    assert merge.positions == [7, 9, 0]
    merge.take(1, NOW, IDLE, ended=True)
    assert merge.positions == [20, 9, 0]
    assert merge.oldest_timestamp() is None
