"""Checks, once per load of a model, that the parts of the model fit each other.

Compiled code uses numbers of one table as indexes into others, without checking bounds. So these numbers are compared
here with the sizes of the tables: an item number beyond the vocabulary would read memory outside the table.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from model.artifact.errors import NOT_FINITE, ModelError
from model.data.calibration_curves import TAILS, Calibration, Curve
from model.data.features import GAP_BUCKETS, HOURS, N_EVENT_TYPES, NUMERIC, Scale
from model.data.vocabulary import Index, Vocabulary
from model.network.network import CATEGORY_WIDTH, EVENT_TYPE_WIDTH, GAP_WIDTH, HOUR_WIDTH, Shape
from model.ranking.candidates import CATEGORY_BEST, FOLLOWERS, POPULAR, SUCCESSORS, Tables

#: Largest item number: a row of hidden states keeps it as a float32, which is exact up to here.
MOST_NUMBERS = 1 << 24
WIDEST = 1 << 14  #: largest hidden width; the weights of such a model take 3 GiB
LARGEST = 1e6  #: limit for numbers that are logarithms, or means or weights of logarithms
FLOAT32 = float(np.finfo(np.float32).max)
LONGEST_HORIZON_MS = 365 * 86_400_000


class MisfitError(ValueError):
    """A part of a model that does not fit the others; the text completes "cannot be used: "."""


def check_vocabulary(vocabulary: Vocabulary) -> None:
    """Raises MisfitError if the numbers of items or categories cannot be used."""
    for name, index in (("items", vocabulary.items), ("categories", vocabulary.categories)):
        _require(index.buckets >= 1, f"{name} share {index.buckets} buckets, at least 1 is needed")
        _require(index.size <= MOST_NUMBERS, f"{index.size} {name} are more than {MOST_NUMBERS}")
        _require(_distinct(index), f"one of the {name} occurs twice in the vocabulary")


def check_settings(
    shape: Shape, scale: Scale, horizon_ms: int, calibration: Calibration, vocabulary: Vocabulary
) -> None:
    """Raises MisfitError if sizes, scale or curves do not fit the vocabulary or each other."""
    items, categories = vocabulary.items, vocabulary.categories
    _equal("item_rows", shape.item_rows, items.size)
    _equal("known_items", shape.known_items, items.known)
    _equal("category_rows", shape.category_rows, categories.size)
    _require(1 <= shape.hidden <= WIDEST, f"hidden is {shape.hidden}, not 1 to {WIDEST}")
    _require(1 <= horizon_ms <= LONGEST_HORIZON_MS, f"horizon_ms is {horizon_ms}")
    _equal("numbers in scale.mean", len(scale.mean), NUMERIC)
    _equal("numbers in scale.deviation", len(scale.deviation), NUMERIC)
    _within("scale.mean", scale.mean, -LARGEST, LARGEST)
    _within("scale.deviation", scale.deviation, 1 / LARGEST**2, LARGEST)
    _within("boost", [calibration.boost], 0.0, LARGEST)
    _check_curve("purchase", calibration.purchase, 0.0, 1.0)
    _check_curve("surprise", calibration.surprise, -LARGEST, 0.0)
    _check_curve("surprise_item", calibration.surprise_item, -LARGEST, 0.0)
    for name in TAILS:
        _require(name in calibration.tails, f"there is no curve {name}")
        _check_curve(name, calibration.tails[name], -LARGEST, 0.0)


def check_tables(tables: Tables, vocabulary: Vocabulary) -> None:
    """Raises MisfitError if a table of candidates has another shape or type, or names an absent item."""
    known = vocabulary.items.known
    wanted = {
        "followers": ((known, FOLLOWERS), np.int32),
        "strength": ((known, FOLLOWERS), np.float32),
        "category_best": ((vocabulary.categories.size, CATEGORY_BEST), np.int32),
        "popular": ((POPULAR,), np.int32),
        "successors": ((known, SUCCESSORS), np.int32),
    }
    for name, (shape, dtype) in wanted.items():
        table: npt.NDArray[np.generic] = getattr(tables, name)
        _require(table.dtype == dtype, f"{name} holds {table.dtype}, not {np.dtype(dtype)}")
        _require(table.shape == shape, f"{name} has the shape {table.shape}, not {shape}")
        if dtype is np.float32:
            least, most = (
                float(table.min(initial=0.0)),
                float(table.max(initial=0.0)),
            )  # NaN if there is one
            _within(name, (least, most), 0.0, LARGEST)
        elif table.size:
            low, high = int(table.min()), int(table.max())
            _require(low >= -1 and high < known, f"{name} names item {low if low < -1 else high} of {known}")


def check_weights(step: torch.jit.ScriptModule, shape: Shape) -> None:
    """Raise MisfitError if a weight is absent or has another shape or type, ModelError if one is not finite."""
    hidden, known = shape.hidden, shape.known_items
    inputs = hidden + CATEGORY_WIDTH + EVENT_TYPE_WIDTH + GAP_WIDTH + HOUR_WIDTH + NUMERIC
    wanted: dict[str, tuple[int, ...]] = {
        "item": (shape.item_rows, hidden),
        "category": (shape.category_rows, CATEGORY_WIDTH),
        "kind": (N_EVENT_TYPES, EVENT_TYPE_WIDTH),
        "gap": (GAP_BUCKETS, GAP_WIDTH),
        "hour": (HOURS, HOUR_WIDTH),
        "shortcut": (hidden, hidden),
        "input_weight": (inputs, 3 * hidden),
        "state_weight": (hidden, 3 * hidden),
        "input_bias": (3 * hidden,),
        "state_bias": (3 * hidden,),
        "item_bias": (known,),
        "head_weight": (hidden, N_EVENT_TYPES + 1),
        "head_bias": (N_EVENT_TYPES + 1,),
    }
    numbers = {"hidden": hidden, "known_items": known, "none_item": shape.item_rows - 1}
    try:
        for name, value in numbers.items():
            _equal(f"{name} of the weights", getattr(step, name), value)
        _require(isinstance(step.chunk, int) and step.chunk >= 1, f"chunk is {step.chunk}")
        references = step.reference_bias.shape[-1] if step.reference_bias.ndim else 0
        wanted |= {"reference_items": (hidden, references), "reference_bias": (references,)}
        for name, size in wanted.items():
            weight = getattr(step, name)
            _require(isinstance(weight, torch.Tensor), f"{name} is not a tensor")
            _require(weight.layout == torch.strided, f"{name} is stored as {weight.layout}")
            _require(weight.dtype == torch.float32, f"{name} holds {weight.dtype}, not torch.float32")
            _require(tuple(weight.shape) == size, f"{name} has the shape {tuple(weight.shape)}, not {size}")
            if not bool(torch.isfinite(weight).all()):
                raise ModelError(f"{NOT_FINITE} ({name})")
    except AttributeError as error:
        raise MisfitError(f"a weight is absent ({error})") from error


def _check_curve(name: str, curve: Curve, low: float, high: float) -> None:
    x, y = curve.x, curve.y
    _require(len(x) == len(y) >= 1, f"the curve {name} has {len(x)} x and {len(y)} y")
    _within(f"x of the curve {name}", x, -FLOAT32, FLOAT32)
    _within(f"y of the curve {name}", y, low, high)
    _require(all(a <= b for a, b in pairwise(x)), f"the x of the curve {name} do not rise")


def _distinct(index: Index) -> bool:
    return len(set(index.ids)) == index.known


def _within(what: str, values: Sequence[float], low: float, high: float) -> None:
    for value in values:  # a comparison with NaN is always false
        _require(low <= value <= high, f"{what} has the value {value:g}, not {low:g} to {high:g}")


def _equal(what: str, found: object, wanted: int) -> None:
    _require(found == wanted, f"{what}: {found}, not {wanted}")


def _require(fits: bool, otherwise: str) -> None:
    if not fits:
        raise MisfitError(otherwise)
