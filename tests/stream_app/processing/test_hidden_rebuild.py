"""The processor with a real, tiny model: hidden states for any micro-batches, after a restart, with a new model."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.data.windows import WINDOW_FEATURES
from model.serving.runtime import Runtime, StepBatch
from model.training.export import export
from stream_app.contract.events import encode_json
from stream_app.contract.records import Record
from stream_app.decoding.name_table import stable_hash
from stream_app.processing.hidden_rebuild import rebuild_hidden
from stream_app.settings.flag_limits import Rules
from stream_app.state.row_layout import ROW
from stream_app.state.users import META_KEY, ItemIndex
from stream_app.state.window_buckets import LAST_EVENTS
from tests.model.tiny import ITEMS, tiny_model, tiny_trained
from tests.stream_app.helpers import SETTINGS, Worker
from tests.stream_app.strategies import T0, Happening, cut, cuts, event_of, happenings, topics_of

MODEL_SETTINGS = msgspec.structs.replace(
    SETTINGS, max_batch=1000, rules=Rules(clicks_1m=2, distinct_items=3, surprise_p=0.2)
)
WITHIN = 1e-4
streams = happenings(items=ITEMS + 3, max_size=40)  # the last three are unknown to the model
relaxed = settings(max_examples=25, deadline=None)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    return Runtime.load(tiny_model(tmp_path_factory.mktemp("model") / "tiny"), device="cpu")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    folder: Path = tmp_path_factory.mktemp("model") / "other"
    export(tiny_trained(1), folder, "other")
    return Runtime.load(folder, device="cpu")


def shop(stream: list[Happening]) -> list[list[Record]]:
    """Return the topics of a stream with the items and categories of the tiny shop."""
    logs = topics_of(stream)
    at = [0, 0, 0]
    for h in stream:
        names: dict[str, Any] = (
            {"item_id": f"item-{h.item}", "category_id": f"category-{h.item % 6}"} if h.item else {}
        )
        value = encode_json(msgspec.structs.replace(event_of(h), **names))
        logs[h.event_type][at[h.event_type]] = logs[h.event_type][at[h.event_type]]._replace(value=value)
        at[h.event_type] += 1
    return logs


def same_answers(one: Worker, two: Worker) -> None:
    """Check that both have the same outputs by id, with numbers within 1e-4."""
    assert one.outputs.keys() == two.outputs.keys()
    for (topic, id_), body in one.outputs.items():
        a, b = msgspec.json.decode(body), msgspec.json.decode(two.outputs[topic, id_])
        if topic == "flags":
            assert a.pop("score") == pytest.approx(b.pop("score"), abs=WITHIN)
            assert [r.pop("code") for r in a["reasons"]] == [r.pop("code") for r in b["reasons"]]
            for ours, theirs in zip(a.pop("reasons"), b.pop("reasons"), strict=True):
                assert ours == pytest.approx(theirs, abs=WITHIN)
        else:
            ours, theirs = a.pop("items"), b.pop("items")
            # Two items with almost equal scores may be in either order.
            assert [i["score"] for i in ours] == pytest.approx([i["score"] for i in theirs], abs=WITHIN)
            scores = {i["item_id"]: i["score"] for i in theirs}
            common = [i for i in ours if i["item_id"] in scores]
            assert all(abs(scores[i["item_id"]] - i["score"]) <= WITHIN for i in common)
            assert len(common) >= len(ours) - 1
            assert a.pop("next_event") == pytest.approx(b.pop("next_event"), abs=WITHIN)
            assert a.pop("purchase_probability") == pytest.approx(b.pop("purchase_probability"), abs=WITHIN)
        assert a == b


def states(worker: Worker) -> dict[str, np.ndarray]:
    return {user: np.frombuffer(raw, np.float32) for user, raw in worker.hidden().items()}


def run_in_pieces(worker: Worker, lengths: list[int]) -> None:
    for number, piece in enumerate(cut(sum(map(len, worker.topics)), lengths)):
        worker.feed(number % 3, piece.stop - piece.start)
        worker.processor.settings = msgspec.structs.replace(
            MODEL_SETTINGS, max_batch=lengths[number % len(lengths)]
        )
        worker.step()


@given(streams, cuts())
@relaxed
def test_same_answers_under_any_cutting(
    runtime: Runtime, stream: list[Happening], lengths: list[int]
) -> None:
    """Predictions, flags and hidden states of one micro-batch and of many agree within 1e-4."""
    whole = Worker(shop(stream), MODEL_SETTINGS, runtime).finish()
    parts = Worker(shop(stream), MODEL_SETTINGS, runtime)
    run_in_pieces(parts, lengths)
    parts.finish()
    same_answers(whole, parts)
    assert whole.rows() == parts.rows()
    ours, theirs = states(whole), states(parts)
    for user, state in ours.items():
        assert np.allclose(state, theirs[user], atol=WITHIN)


@given(streams, cuts(), st.integers(0, 30), st.integers(1, 4))
@relaxed
def test_a_restart_changes_no_answer(
    runtime: Runtime, stream: list[Happening], lengths: list[int], first: int, at_once: int
) -> None:
    """Hidden states are restored bit for bit, and outputs after a restart are the same as without it."""
    whole = Worker(shop(stream), MODEL_SETTINGS, runtime).finish()
    worker = Worker(shop(stream), MODEL_SETTINGS, runtime)
    for topic_index in range(3):
        worker.feed(topic_index, first)
    worker.step()
    worker.checkpoint()
    before, rows = worker.hidden(), worker.rows()
    recent = {
        u: worker.processor.users.recent_item[s].tolist()
        for u, s in worker.processor.users.mapping(0).items()
    }
    worker.start(worker.committed[-1], at_once=at_once)
    assert worker.hidden() == before
    assert worker.rows() == rows
    users = worker.processor.users
    assert {u: users.recent_item[s].tolist() for u, s in users.mapping(0).items()} == recent
    run_in_pieces(worker, lengths)
    worker.finish()
    same_answers(whole, worker)
    for user, state in states(whole).items():
        assert np.allclose(state, states(worker)[user], atol=WITHIN)


def test_a_user_who_returns_after_expiry_is_a_new_one(runtime: Runtime) -> None:
    """After the time to live the hidden state starts at zero, within one micro-batch and across two."""
    day = 86_400_000
    old = [Happening(0, 0, T0 + i, 1 + i, 0, 1.0, 1) for i in range(3)]
    between = [Happening(1, 0, T0 + 40 * day, 5, 0, 1.0, 1)]
    back = [h._replace(ts=h.ts + 40 * day) for h in old]
    for batch in (1, 1000):
        limits = msgspec.structs.replace(MODEL_SETTINGS, max_batch=batch)
        returned = Worker(shop([*old, *between, *back]), limits, runtime).finish()
        never_seen = Worker(shop([*between, *back]), limits, runtime).finish()
        assert np.allclose(states(returned)["u0"], states(never_seen)["u0"], atol=1e-6)


def by_hand(runtime: Runtime, worker: Worker, user: str) -> np.ndarray:
    """Return a user's hidden state after the last events in the row, computed one after the other."""
    slot = worker.processor.users.mapping(0)[user]
    row = worker.processor.users.rows[slot]
    vocabulary = runtime.content.vocabulary
    items = {stable_hash(name): number for number, name in enumerate(vocabulary.items.ids)}
    categories = {stable_hash(name): number for number, name in enumerate(vocabulary.categories.ids)}
    hidden_states = runtime.hidden_states(1)
    n = int(row["events"])
    for number in range(max(0, n - LAST_EVENTS), n):
        e = row["recent"][number % LAST_EVENTS]
        item = items.get(int(e["item_hash"]), runtime.none_item)
        batch = StepBatch(
            slots=np.zeros(1, np.int64),
            event_type=np.array([e["kind"]], np.int8),
            item=np.array([item], np.int32),
            category=np.array([categories.get(int(e["category_hash"]), runtime.none_category)], np.int32),
            gap_s=np.array([e["gap_s"]], np.float32),
            ts=np.array([e["ts"]], np.int64),
            price=np.array([e["price"]], np.float32),
            quantity=np.array([e["quantity"]], np.int32),
            windows=np.zeros((1, len(WINDOW_FEATURES)), np.float32),
            recent=np.array([[item]], np.int32),
            first=np.array([number == 0]),
        )
        runtime.rebuild(hidden_states, batch)
    return hidden_states.read(np.zeros(1, np.int64))[0]


busy = happenings(users=2, items=ITEMS + 3, max_size=70)  # more events than are kept


@given(busy)
@relaxed
def test_rebuilt_states_are_those_of_the_last_events(runtime: Runtime, stream: list[Happening]) -> None:
    """A rebuild puts every user's last events in order through the model, with empty windows."""
    worker = Worker(shop(stream), MODEL_SETTINGS, runtime).finish()
    processor = worker.processor
    assert processor.hidden_states is not None
    rows = worker.rows()
    ids = runtime.content.vocabulary.categories.ids
    categories = ItemIndex.build([stable_hash(c) for c in ids], runtime.none_category)
    rebuild_hidden(processor.users, processor.hidden_states, runtime, 0, categories)
    for user, state in states(worker).items():
        assert np.allclose(state, by_hand(runtime, worker, user), atol=1e-5)
    assert worker.rows() == rows


def test_a_new_model_takes_over_for_good(runtime: Runtime, other: Runtime) -> None:
    """With another model all states are rebuilt and written, so that the next restart finds its own states."""
    stream = [Happening(i % 4, i % 3, T0 + 1000 * i, 1 + i % 9, 0, 1.0, 1) for i in range(60)]
    worker = Worker(shop(stream), MODEL_SETTINGS, runtime)
    for topic_index in range(3):
        worker.feed(topic_index, 12)
    worker.step()
    worker.checkpoint()
    rows = worker.rows()
    worker.runtime = other
    worker.start(worker.committed[-1])
    assert worker.rows() == rows
    rebuilt = states(worker)
    for user, state in rebuilt.items():
        assert np.allclose(state, by_hand(other, worker, user), atol=1e-5)
    for topic_index in range(3):
        worker.feed(topic_index, 1)
    assert worker.step() is not None
    made = worker.checkpoint()
    assert made is not None
    assert {key for key, _ in made.records.each()} == {b"u0", b"u1", b"u2", b"u3", META_KEY}
    now = worker.hidden()
    worker.start(worker.committed[-1])
    assert worker.hidden() == now


def test_a_model_is_gone(runtime: Runtime) -> None:
    """State written with a model is read without one, and the other way round."""
    stream = [Happening(i % 4, i % 3, T0 + 1000 * i, 1 + i % 9, 0, 1.0, 1) for i in range(30)]
    worker = Worker(shop(stream), MODEL_SETTINGS, runtime)
    for now in (None, runtime):
        for topic_index in range(3):
            worker.feed(topic_index, 4)
        worker.step()
        worker.checkpoint()
        rows = worker.rows()
        worker.runtime = now
        worker.start(worker.committed[-1])
        assert worker.rows() == rows
        if now is not None:
            for user, state in states(worker).items():
                assert np.allclose(state, by_hand(runtime, worker, user), atol=1e-5)


def test_the_last_prediction_belongs_to_its_user(runtime: Runtime) -> None:
    """A look-up shows what was published last, and nothing for a user who was not predicted here."""
    stream = [Happening(0, 0, T0 + i, 1 + i, 0, 1.0, 1) for i in range(3)]
    worker = Worker(shop(stream), MODEL_SETTINGS, runtime).finish()
    slot = worker.processor.users.mapping(0)["u0"]
    said = msgspec.json.decode(worker.outputs["predictions", "clicks-0-2"])
    shown = msgspec.to_builtins(worker.processor.last_prediction(slot))
    assert shown["next_event"] == said["next_event"]
    assert shown["purchase_probability"] == said["purchase_probability"]
    ours, theirs = shown["items"], said["items"]
    assert [i["item_id"] for i in ours] == [i["item_id"] for i in theirs]
    assert [i["score"] for i in ours] == pytest.approx([i["score"] for i in theirs], abs=1e-5)
    worker.processor.users.remove(np.array([slot]))
    assert worker.processor.users.slots(0, ["new"]).tolist() == [slot]
    assert worker.processor.last_prediction(slot) is None
    assert worker.processor.users.rows[slot].tobytes() != np.zeros(1, ROW).tobytes()
