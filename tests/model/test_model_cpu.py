"""The CPU step with kernels and tables, compared with TorchScript and torch alone."""

from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.evaluation import playback
from model.kernels import simd_math
from model.kernels.helper_thread import WORTH_IT
from model.serving import gru_kernel
from model.serving.cpu_step import CpuStep
from model.serving.embedding_products import EmbeddingProducts
from model.serving.input_gates import InputGates
from model.serving.rounds import arrange
from model.serving.runtime import Runtime, StepBatch, StepResult
from tests.model.tiny import tiny_interactions

DATA = tiny_interactions(8, users=30)


#: Largest difference of answers, by default 1e-5. Shares: the effect of 8 bits. p-values: the curve of a
#: tiny model is steep between two surprises that are nearly equal.
ATOL = {"scores": 5e-4, "p_value": 2e-3}


def same(found: StepResult, wanted: StepResult) -> None:
    """Check that all answers agree, items except for near ties."""
    for name, column in vars(wanted).items():
        mine = getattr(found, name)
        assert mine.dtype == column.dtype, name
        if name == "items":
            assert (mine == column).mean() > 0.99
        else:
            np.testing.assert_allclose(mine, column, atol=ATOL.get(name, 1e-5), err_msg=name)


def heavy(runtime: Runtime, seed: int) -> StepBatch:
    """Return the table as one batch in which a third of the events are one user's; some items are unknown."""
    batch = playback.whole_batch(runtime, DATA)
    random = np.random.default_rng(seed)
    slots = np.where(random.random(len(batch)) < 0.33, 0, batch.slots)
    item = np.where(random.random(len(batch)) < 0.1, len(runtime.item_ids) + 2, batch.item).astype(np.int32)
    return StepBatch(**(vars(batch) | {"slots": slots, "item": item}))


@pytest.mark.parametrize("exact", [False, True])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), cut=st.integers(1, 500))
def test_the_cpu_answers_as_torch_alone(runtime: Runtime, exact: bool, seed: int, cut: int) -> None:
    """Over two micro-batches with a very active user, all answers and states equal those of the plain step."""
    batch = heavy(runtime, seed)
    fast, plain = (runtime.exactly(), runtime.plainly().exactly()) if exact else (runtime, runtime.plainly())
    hidden = runtime.hidden_states(30), runtime.hidden_states(30)
    for rows in (np.arange(cut), np.arange(cut, len(batch))):
        some = playback.part(batch, rows)
        same(fast.step(hidden[0], some), plain.step(hidden[1], some))
    np.testing.assert_allclose(hidden[0].states, hidden[1].states, atol=1e-5)


def test_two_threads_answer_as_one(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second thread changes no bit of an answer."""
    batch = heavy(runtime, 1)
    batch = StepBatch(**{name: np.concatenate([column] * 8) for name, column in vars(batch).items()})
    assert len(batch) > WORTH_IT
    assert isinstance(runtime._backend, CpuStep)
    sharing, found = runtime._backend.helper, []
    for helper in (ThreadPoolExecutor(1), None):
        monkeypatch.setattr(sharing, "_helper", helper)
        found.append(vars(runtime.step(runtime.hidden_states(30), batch)))
    for name, column in found[0].items():
        np.testing.assert_array_equal(column, found[1][name], err_msg=name)


@pytest.mark.parametrize("limit", [1, 3, 8, 1000])
def test_wide_and_narrow_rounds_agree(runtime: Runtime, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Wherever the border between TorchScript and kernel lies, the states are the same."""
    batch = heavy(runtime, 1)
    wanted = runtime.hidden_states(30)
    runtime.plainly().rebuild(wanted, batch)
    monkeypatch.setattr(gru_kernel, "NARROW", limit)
    hidden = runtime.hidden_states(30)
    engine = CpuStep(runtime._step, runtime.content)
    engine.advance(hidden.states, arrange(batch.slots), runtime._inputs(batch))
    np.testing.assert_allclose(hidden.states, wanted.states, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 19), st.lists(st.integers(1, 23), min_size=1, max_size=6))
def test_the_narrow_kernel_equals_torchs_cell(seed: int, hidden: int, sizes: list[int]) -> None:
    """Any width and any number of rows work, even those that fill no block of four."""
    torch.manual_seed(seed)
    sizes = sorted(sizes, reverse=True)
    cell = torch.nn.GRUCell(hidden, hidden)
    users, m = sizes[0], sum(sizes)
    buffer, inputs = torch.randn(users + m, hidden), torch.randn(m, hidden)
    with torch.no_grad():
        gates = inputs @ cell.weight_ih.T + cell.bias_ih
        found = buffer.clone().numpy()
        gru_kernel.advance(
            found, gates.numpy(), np.array(sizes), 0, 0, users,
            np.ascontiguousarray(cell.weight_hh.T.numpy()), cell.bias_hh.numpy(), gru_kernel.scratch(hidden),
        )  # fmt: skip
        before = row = 0
        for size in sizes:
            state = cell(inputs[row : row + size], buffer[before : before + size])
            before = users + row
            buffer[before : before + size] = state
            row += size
    np.testing.assert_allclose(found, buffer, atol=2e-6)


@pytest.mark.parametrize("item_bytes", [0, 5_000, 1 << 30])
def test_gates_are_the_wide_product_whatever_fits_into_memory(runtime: Runtime, item_bytes: int) -> None:
    """With all, some or no rows stored (buckets and "none" always), gates are `inputs @ weight + bias`."""
    step, batch = runtime._step, heavy(runtime, 2)
    inputs = runtime._inputs(batch)
    gates = InputGates(step, runtime.content.vocabulary.categories.known, item_bytes, item_bytes // 10)
    assert 0 <= gates.items.head <= 40
    assert (gates.items.head == 40) == (item_bytes > 100_000)
    order = np.random.default_rng(0).permutation(len(batch))
    found = np.empty((len(batch), 3 * (runtime.hidden - 1)), np.float32)
    gates.fill(inputs, order, found)
    tables = (step.item, step.category, step.kind, step.gap, step.hour)
    wide = [table[torch.from_numpy(numbers)] for table, numbers in zip(tables, _numbers(inputs), strict=True)]
    whole = torch.cat([*wide, torch.from_numpy(inputs.numeric)], dim=1)
    wanted = torch.addmm(step.input_bias, whole, step.input_weight).numpy()[order]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def _numbers(inputs: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """Return the columns item, category, event_type, gap, hour."""
    return [np.asarray(inputs[at], np.int64) for at in (1, 2, 0, 3, 4)]


def test_products_that_do_not_fit_are_multiplied() -> None:
    """The added rows equal those of the whole product for every number, with memory for 3 of 10 known rows."""
    torch.manual_seed(0)
    embedding, weight = torch.randn(13, 5), torch.randn(5, 8)
    products = EmbeddingProducts(embedding, weight, 10, 3 * 4 * 8)
    assert products.head == 3
    assert len(products.rows) == 6
    numbers = np.array([12, 0, 2, 3, 9, 10, 9], np.int32)
    out = np.ones((7, 8), np.float32)
    products.add(numbers, out)
    np.testing.assert_allclose(out, 1.0 + (embedding @ weight).numpy()[numbers], atol=1e-5)


def test_answers_outlive_the_next_micro_batch(runtime: Runtime) -> None:
    """Working memory is used again, returned arrays are not."""
    batch, hidden = playback.whole_batch(runtime, DATA), runtime.hidden_states(30)
    first = runtime.step(hidden, playback.part(batch, np.arange(100)))
    kept = {name: column.copy() for name, column in vars(first).items()}
    runtime.step(hidden, playback.part(batch, np.arange(100, 300)))
    for name, column in vars(first).items():
        np.testing.assert_array_equal(column, kept[name], err_msg=name)


def test_columns_may_be_views_and_read_only(runtime: Runtime) -> None:
    """Strided and read-only columns give the same answers as plain ones."""
    batch = playback.part(playback.whole_batch(runtime, DATA), np.arange(64))
    other = {}
    for name, column in vars(batch).items():
        wide = np.repeat(column, 2, axis=0)[::2]
        wide.setflags(write=False)
        other[name] = wide
    wanted = runtime.step(runtime.hidden_states(30), batch)
    found = runtime.step(runtime.hidden_states(30), StepBatch(**other))
    for name, column in vars(wanted).items():
        np.testing.assert_array_equal(getattr(found, name), column, err_msg=name)


@numba.njit(fastmath=True, error_model="numpy")
def _apply(x, exp, sigmoid, tanh):  # type: ignore[no-untyped-def]
    for row in range(x.shape[0]):
        exp[row] = simd_math.exp(x[row])
        sigmoid[row] = simd_math.sigmoid(x[row])
        tanh[row] = simd_math.tanh(x[row])


def test_vector_functions_are_right_to_float32() -> None:
    """exp within 5e-7 of its value from -80 to 80 and bounded beyond; sigmoid and tanh within 3e-7."""
    x = np.concatenate((np.linspace(-80, 80, 100_001), np.linspace(-1, 1, 100_001), [-1e4, 1e4])).astype(
        np.float32
    )
    exp, sigmoid, tanh = (np.empty_like(x) for _ in range(3))
    _apply(x, exp, sigmoid, tanh)
    exact = x.astype(np.float64)
    np.testing.assert_allclose(exp, np.exp(np.clip(exact, -80, 80)), rtol=5e-7)
    np.testing.assert_allclose(sigmoid, 1 / (1 + np.exp(-np.clip(exact, -80, 80))), atol=3e-7)
    np.testing.assert_allclose(tanh, np.tanh(exact), atol=3e-7)
