"""Failures of the model: steps that raise, are slow or return NaN; a model that appears late; the hidden states."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.serving.runtime import ModelError, Runtime
from model.training.export import export
from stream_app.contract.record_columns import RecordColumns
from stream_app.processing.hidden_rebuild import rebuild_hidden
from stream_app.processing.model_breaker import LONGEST_WAIT_S
from stream_app.processing.model_host import step_batch
from stream_app.processing.shop_processor import ShopProcessor
from tests.model.tiny import tiny_model, tiny_trained
from tests.stream_app.failing_shop import SETTINGS, Shop, break_down, click, close, ids

HOLD = msgspec.structs.replace(SETTINGS, model_trouble="hold")
LATER = 2 * LONGEST_WAIT_S  # seconds after which a probe is always due


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("model") / "other"
    export(tiny_trained(1), path, "other")
    return path


@pytest.fixture
def runtime(folder: Path) -> Runtime:
    """A separate model, since the test breaks it."""
    return Runtime.load(folder, device="cpu")


@pytest.fixture(scope="module")
def pair(folder: Path) -> tuple[Runtime, Runtime]:
    """A model to break and an intact one, for many examples."""
    return Runtime.load(folder, "cpu"), Runtime.load(folder, "cpu")


ERRORS = [
    RuntimeError("no kernel image\nis available"),
    torch.OutOfMemoryError("CUDA out of memory"),
    ValueError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("half_way", [False, True])
def test_degraded_answers_while_the_step_raises(folder: Path, error: Exception, half_way: bool) -> None:
    """Each event is answered once, during a failure without the model and marked; state and rules as usual."""
    runtime = Runtime.load(folder, "cpu")
    well, shop = Shop(Runtime.load(folder, "cpu")), Shop(runtime)
    for each in (well, shop):
        each.run(20)
    assert shop.processor.trouble is None
    mend = break_down(runtime, error, half_way=half_way)
    shop.run(30)
    assert shop.processor.trouble is not None
    assert type(error).__name__ in shop.processor.trouble
    assert "\n" not in shop.processor.trouble
    assert shop.checkpoint()
    mend()
    assert shop.step(LATER) is not None  # the probe
    assert shop.processor.trouble is None
    shop.run(20)
    for each in (30, 20):
        well.run(each)
    assert set(shop.seen) == ids(0, 70)
    assert set(shop.seen.values()) == {1}
    assert shop.degraded() == ids(20, 50)
    assert shop.totals["degraded"] == 60
    assert shop.totals["model_failures"] == 1
    assert shop.rows() == well.rows()
    for id_, said in shop.predictions.items():
        assert (
            (said.next_event is None)
            == said.degraded
            == (said.purchase_probability is None)
            == (not said.items)
        )
        if id_ in ids(0, 20):
            assert close(said, well.predictions[id_])
    # Flags by rule continue, and are marked during the failure as made without the model.
    assert set(shop.flags) == set(well.flags) != set()
    for id_, flag in shop.flags.items():
        assert flag.reasons == well.flags[id_].reasons
        assert flag.degraded == (id_ in ids(20, 50))


def test_states_after_trouble_are_made_of_the_last_events(runtime: Runtime) -> None:
    """The hidden state of a user whose step was skipped is rebuilt at the next event, even after a restart."""
    shop = Shop(runtime)
    shop.run(21)
    mend = break_down(runtime, RuntimeError("broken"))
    shop.run(14)
    mend()
    shop.step(LATER)
    users = shop.processor.users
    assert users.stale[[s for p in (0, 1) for s in users.mapping(p).values()]].all()
    assert shop.checkpoint()
    restarted = Shop(runtime)
    restarted.logs, restarted.committed = shop.logs, list(shop.committed)
    restarted.start()
    by_hand = runtime.hidden_states(users.limit)
    assert shop.processor._model_host is not None
    for partition in (0, 1):
        rebuild_hidden(users, by_hand, runtime, partition, shop.processor._model_host.categories)
    for each in (shop, restarted):
        each.feed(7)
        out = each.step()
        assert out is not None
        if each is shop:
            for batch in out.batches:
                runtime.step(by_hand, step_batch(batch))
    for partition in (0, 1):
        for user, slot in users.mapping(partition).items():
            expected = by_hand.read(np.array([slot]))[0]
            assert np.allclose(shop.hidden()[user], expected, atol=1e-5), user
            assert np.allclose(restarted.hidden()[user], expected, atol=1e-5), user
    assert not users.stale.any()
    for id_ in ids(35, 42):
        assert close(shop.predictions[id_], restarted.predictions[id_])
        assert not shop.predictions[id_].degraded


@pytest.mark.parametrize("half_way", [False, True])
@pytest.mark.parametrize("restarted", [False, True])
def test_held_answers_are_those_of_a_run_without_trouble(
    folder: Path, half_way: bool, restarted: bool
) -> None:
    """With `hold` no event is answered without the model; later all are, without a difference, even after a crash."""
    runtime = Runtime.load(folder, "cpu")
    well, shop = Shop(Runtime.load(folder, "cpu"), HOLD), Shop(runtime, HOLD)
    for each in (well, shop):
        each.run(20)
        assert each.checkpoint()
    mend = break_down(runtime, RuntimeError("broken"), half_way=half_way)
    # Two micro-batches are applied before the first of them fails, as in a worker's two threads.
    shop.feed(60)
    first, second = shop.processor.apply_batch(0.0), shop.processor.apply_batch(0.0)
    assert first is not None
    assert second is not None
    for out in (first, second):
        shop.processor.predict_batch(out)
        shop.keep(out)
    assert shop.processor.trouble is not None
    for _ in range(5):
        shop.step(0.001)
    assert set(shop.seen) == ids(0, 20), "no output is sent while events are held"
    assert not shop.checkpoint(), "rows without their outputs are not written"
    assert shop.step(LATER) is not None, "a probe that fails"
    assert set(shop.seen) == ids(0, 20)
    mend()
    if restarted:
        shop.start()
        shop.feed(60)
    else:
        assert shop.step(LATER) is not None
        assert set(shop.seen) > ids(0, 20), "the probe releases what was held"
    while shop.step() is not None:
        pass
    assert shop.processor.trouble is None
    well.run(60)
    assert set(shop.seen) == ids(0, 80)
    assert set(shop.seen.values()) == {1}
    assert not shop.degraded()
    assert all(close(said, well.predictions[id_]) for id_, said in shop.predictions.items())
    assert shop.flags.keys() == well.flags.keys()
    assert shop.rows() == well.rows()
    ours, theirs = shop.hidden(), well.hidden()
    assert all(np.allclose(ours[user], theirs[user], atol=1e-4) for user in theirs)
    assert shop.checkpoint()


def test_what_is_held_of_a_partition_goes_with_it(runtime: Runtime) -> None:
    """A partition that another worker took over gets no answers here, and its slots are free for others."""
    shop = Shop(runtime, HOLD)
    shop.run(7)
    mend = break_down(runtime, RuntimeError("broken"))
    shop.run(20)
    shop.processor.rewind()
    shop.processor.drop(0)
    mend()
    while shop.step(LATER) is not None:
        pass
    assert set(shop.seen) == ids(0, 7) | {i for i in ids(7, 27) if i.startswith("clicks-1-")}
    assert not shop.degraded()
    assert set(shop.processor.users.mapping(1)) == {f"u1-{n}" for n in range(7)}
    assert len(shop.processor.users) == 7


def test_a_state_that_is_no_number_poisons_nobody_else(folder: Path) -> None:
    """NaN in one user's hidden state is reset and counted, and all other users do not change."""
    runtime = Runtime.load(folder, "cpu")
    well, shop = Shop(Runtime.load(folder, "cpu")), Shop(runtime)
    for each in (well, shop):
        each.run(20)
    users = shop.processor.users
    slot = users.mapping(0)["u0-3"]
    assert users.hidden is not None
    for spoiled in (np.nan, np.inf):
        users.hidden.states[slot, 5] = spoiled
        for each in (well, shop):
            each.run(14)
        assert np.isfinite(shop.hidden()["u0-3"]).all()
    assert shop.totals["hidden_resets"] == 2
    assert shop.processor.trouble is None
    assert not shop.degraded()
    assert set(shop.seen.values()) == {1}
    for user, state in well.hidden().items():
        assert np.array_equal(shop.hidden()[user], state) == (user != "u0-3"), user
    for id_, said in shop.predictions.items():
        assert said.next_event is not None
        assert np.isfinite(msgspec.structs.astuple(said.next_event)).all()
        if said.user_id != "u0-3":
            assert said == well.predictions[id_]


def test_damaged_weights_are_trouble_until_another_model_comes(
    folder: Path, other_folder: Path, runtime: Runtime
) -> None:
    """With NaN in the weights outputs are degraded and probes fail, until another model from the folder answers."""
    shop = Shop(runtime)
    shop.run(10)
    runtime._backend._head_bias[:] = np.nan  # type: ignore[union-attr, operator, index]
    shop.run(10)
    assert "NaN" in (shop.processor.trouble or "")
    shop.step(LATER)
    assert "NaN" in (shop.processor.trouble or "")
    shop.run(10)
    assert shop.degraded() == ids(10, 30)
    another = Runtime.load(other_folder, "cpu")
    shop.feed(10)  # these wait during the change of the model, with item numbers of the old one
    shop.processor.offer(another)
    while shop.step() is not None:
        pass
    assert shop.processor.trouble is None
    assert shop.processor.label == another.label
    assert shop.checkpoint()
    shop.run(14)
    assert shop.degraded() == ids(10, 30)
    assert {said.model for id_, said in shop.predictions.items() if id_ in ids(30, 54)} == {another.label}
    # The same as in a worker started with that model.
    restarted = Shop(another)
    restarted.logs, restarted.committed = shop.logs, list(shop.committed)
    restarted.start()
    restarted.run(14)
    assert all(close(said, shop.predictions[id_]) for id_, said in restarted.predictions.items())
    assert set(restarted.predictions) == ids(40, 54)


@pytest.mark.parametrize("how", ["degrade", "hold"])
def test_a_model_that_comes_late(folder: Path, runtime: Runtime, how: str) -> None:
    """Without its model a worker degrades or waits; once the model exists, it answers like one started with it."""
    shop = Shop(None, HOLD if how == "hold" else SETTINGS, missing="There is no model at X")
    assert shop.processor.trouble == "There is no model at X"
    shop.run(20)
    shop.checkpoint()
    if how == "hold":
        assert not shop.seen
        assert shop.processor.users.count == {0: 0, 1: 0}
    else:
        assert shop.degraded() == ids(0, 20)
        assert {said.model for said in shop.predictions.values()} == {"none"}
    shop.feed(5)
    started = Shop(runtime)
    started.logs, started.committed = [list(log) for log in shop.logs], list(shop.committed)
    started.start()
    started.feed(shop.next[0] - started.next[0])
    shop.processor.offer(Runtime.load(folder, "cpu"))
    for each in (shop, started):
        while each.step() is not None:
            pass
        each.run(10)
    assert shop.processor.trouble is None
    assert set(shop.seen) == ids(0, 35)
    assert set(shop.seen.values()) == {1}
    assert all(close(said, shop.predictions[id_]) for id_, said in started.predictions.items())
    assert not started.degraded()


def test_a_slow_step_is_trouble_where_that_degrades(runtime: Runtime) -> None:
    """The slow answer is used; later events go without the model until a probe. With `hold` it is only slow."""
    for how in (SETTINGS, HOLD):
        shop = Shop(runtime, how)
        shop.processor.breaker.slow_s = 0.0
        shop.run(7)
        shop.run(7)
        if how is HOLD:
            assert shop.processor.trouble is None
            assert not shop.degraded()
            continue
        assert "a step took" in (shop.processor.trouble or "")
        assert shop.degraded() == ids(7, 14)
        shop.processor.breaker.slow_s = 10.0
        shop.step(LATER)
        shop.run(7)
        assert shop.degraded() == ids(7, 14)
        assert shop.processor.trouble is None


def test_nobody_guards_a_run_without_a_broker(runtime: Runtime) -> None:
    """`foreclick run` and training end with the error: they do not wait for the model to recover."""
    processor = ShopProcessor(SETTINGS, runtime, partitions=1)
    processor.assign(0, [0, 0, 0])
    processor.restored(0)
    processor.ingest(0, 0, RecordColumns.of([click(0, 0, 0)]), 1)
    break_down(runtime, ModelError("broken"))
    with pytest.raises(ModelError, match="broken"):
        processor.step(0.0, ended=True)


moves = st.lists(
    st.tuples(
        st.sampled_from(["feed", "step", "advance two", "break", "mend", "checkpoint", "crash", "rewind"]),
        st.integers(1, 30),
    ),
    max_size=25,
)


@given(moves, st.booleans(), st.booleans())
@settings(max_examples=40, deadline=None)
def test_nothing_is_lost_or_applied_twice_whatever_comes(
    pair: tuple[Runtime, Runtime], happened: list[tuple[str, int]], hold: bool, half_way: bool
) -> None:
    """With failures, probes, checkpoints, crashes and rebalances in any order, rows are correct and no id is missing.

    With `hold` no answer differs from a run without failures, repeats included. With `degrade` none is repeated
    except after a crash.
    """
    (runtime, whole), how = pair, HOLD if hold else SETTINGS
    vars(runtime).pop("step", None)  # left by an example that failed
    shop = Shop(runtime, how)
    mend: Callable[[], None] | None = None
    crashed = False
    for what, n in happened:
        if what == "feed":
            shop.feed(n)
        elif what == "step":
            shop.step(n / 10)
        elif what == "advance two":
            outs = [shop.processor.apply_batch(shop.now) for _ in range(2)]
            for out in outs:
                if out is not None:
                    shop.processor.predict_batch(out)
                    shop.keep(out)
        elif what == "break" and mend is None:
            mend = break_down(runtime, RuntimeError("broken"), half_way=half_way)
        elif what == "mend" and mend is not None:
            mend()
            mend = None
        elif what == "checkpoint":
            shop.checkpoint()
        elif what == "crash":
            crashed = True
            shop.start()
        elif what == "rewind":
            shop.processor.rewind()
            shop.next = [shop.processor.merge(partition).positions[0] for partition in (0, 1)]
    if mend is not None:
        mend()
    shop.feed(shop.fed - min(shop.next) + 7)
    while shop.step(LATER) is not None:
        pass
    assert shop.processor.trouble is None
    assert not shop.processor.breaker.held
    if how is HOLD:
        assert not shop.degraded()
    assert set(shop.seen) == {f"clicks-{p}-{n}" for p in (0, 1) for n in range(shop.next[p])}
    if not crashed:
        assert set(shop.seen.values()) == {1}
    well = Shop(whole, how)
    for partition, end in enumerate(shop.next):
        records = [click(i, i % 7, partition) for i in range(end)]
        well.processor.ingest(partition, 0, RecordColumns.of(records), end)
    while well.step() is not None:
        pass
    assert shop.rows() == well.rows()
    if hold:
        assert all(close(said, well.predictions[id_]) for id_, said in shop.predictions.items())
