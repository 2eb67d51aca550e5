"""The interface for the stream processor: load a model folder, process micro-batches, rank, calibrate.

Only one thread may use a runtime and its hidden states at a time; the heavy parts release the GIL.
"""

import copy
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch

from model.artifact import checks, files
from model.artifact import model_folder as folders
from model.artifact.errors import NOT_FINITE
from model.artifact.model_folder import Content, ModelError
from model.data.calibration_curves import TAILS, Calibration
from model.data.features import FeatureEncoder, Inputs
from model.data.windows import WINDOW_FEATURES
from model.network import torchscript
from model.serving.cpu_step import CpuStep, column
from model.serving.hidden_states import HiddenStates
from model.serving.rounds import arrange
from model.serving.step_types import RECENT_ITEMS, Backend, StepBatch, StepInputs, StepResult, empty
from model.serving.torch_step import TorchStep

__all__ = [
    "NOT_FINITE",
    "HiddenStates",
    "ModelError",
    "Runtime",
    "StepBatch",
    "StepResult",
    "choose_device",
    "finite",
    "label_of",
]  # fmt: skip


class Runtime:
    """A model ready to run."""

    def __init__(
        self, content: Content, step: torch.jit.ScriptModule, label: str, device: torch.device, exact: bool
    ) -> None:
        self.content = content
        self.label = label  #: "name@version", named in every output
        self.created_ms = 0  #: Unix ms of its export, 0 if that is not known
        self.device = device
        self.exact = exact  #: rank all items instead of the candidates
        #: Width of a row of `HiddenStates`: the hidden state and the number of the last item (`model.network.step`).
        self.hidden = content.settings.shape.hidden + 1
        self.horizon_ms = content.settings.horizon_ms
        self.item_ids = content.vocabulary.items.ids
        self.none_item = content.vocabulary.items.none
        self.none_category = content.vocabulary.categories.none
        self.item_index = content.vocabulary.items.of
        self.category_index = content.vocabulary.categories.of
        self._step = step
        self._encoder = FeatureEncoder(content.settings.scale)
        self._backend: Backend = (
            CpuStep(step, content) if device.type == "cpu" else TorchStep(step, content, device)
        )

    @classmethod
    def load(
        cls,
        folder: Path,
        device: str = "auto",
        exact: bool = False,
        model_key: Path | None = None,
        wanted: folders.Wanted = folders.ANY,
    ) -> "Runtime":
        """Return the model of a folder on a device: "auto" (CUDA if there is one), "cpu", "cuda" ...

        Every checksum is verified, and the signature too if a file of public keys is given. Raises ModelError for a
        missing, damaged, unsigned, foreign or unwanted folder, for one whose parts do not fit each other, and for a
        device that this machine does not have.
        """
        manifest, content = folders.read(folder, model_key, wanted)
        place = choose_device(device)
        try:
            files.check_archive(content.step)
            step = torchscript.from_bytes(content.step, place)
            checks.check_weights(step, content.settings.shape)
        except checks.MisfitError as error:
            raise ModelError(f"The model at {folder} cannot be used: {error}; train it again.") from error
        except ModelError as error:
            raise ModelError(f"The model at {folder} cannot be used: {error}.") from error
        except Exception as error:  # torch raises various errors for bytes that are not TorchScript
            raise ModelError(
                f"torch {torch.__version__} cannot read step.ts of the model at {folder}: train it again."
            ) from error
        runtime = cls(content, step, f"{manifest.name}@{manifest.version}", place, exact)
        runtime.created_ms = manifest.created_ms
        return runtime

    def exactly(self) -> "Runtime":
        """Return the same model with the ranking over all items; working memory is shared."""
        other = copy.copy(self)
        other.exact = True
        return other

    def plainly(self) -> "Runtime":
        """Return the same model without the CPU kernels: only TorchScript and torch, which is the reference."""
        other = copy.copy(self)
        other._backend = TorchStep(self._step, self.content, self.device)
        return other

    def calibrated(self, calibration: Calibration) -> "Runtime":
        """Return the same model with other curves; working memory is shared."""
        other = copy.copy(self)
        other.content = msgspec.structs.replace(self.content, calibration=calibration)
        return other

    def hidden_states(self, capacity: int) -> HiddenStates:
        """Return hidden states for `capacity` users, all zero, on the device.

        On a CPU memory is allocated only as slots are used, so ask at once for as many as you may ever need.
        """
        return HiddenStates(capacity, self.hidden, self.device)

    def warm_up(self) -> None:
        """Run micro-batches of typical shapes, so that nothing is compiled while real events wait."""
        hidden = self.hidden_states(64)
        for m in (1, 2, 64, 64, 64):
            self.step(hidden, self._blank(m))
            self.rebuild(hidden, self._blank(m))

    def probe(self) -> None:
        """Run a small step on separate hidden states. Raises ModelError if the answers contain NaN or infinity."""
        if not finite(self.step(self.hidden_states(1), self._blank(2))).all():
            raise ModelError(NOT_FINITE)

    def give_memory_back(self) -> None:
        """Release the memory that the device's allocator holds in reserve, after the device ran out of it."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def step(self, hidden: HiddenStates, batch: StepBatch, k: int = 10) -> StepResult:
        """Advance the hidden states by a micro-batch and return the answers for every event."""
        if not len(batch):
            return empty(k)
        plan = arrange(batch.slots)
        inputs = self._inputs(batch)
        curves = self.content.calibration
        answers = self._backend(hidden.states, StepInputs(plan, inputs, batch, curves.boost, k, self.exact))
        surprise = -(answers.log_type + answers.log_item)
        surprise[batch.first] = 0.0
        log_p = curves.surprise(surprise)
        known = np.flatnonzero(batch.item < len(self.item_ids))
        log_p[known] = curves.surprise_item(surprise[known])
        log_p[batch.first] = 0.0
        return StepResult(
            next_event=answers.next_event,
            purchase=curves.purchase(answers.raw_purchase),
            items=answers.items,
            scores=answers.scores,
            p_value=np.exp(log_p),
            surprise=surprise,
            type_probability=np.exp(answers.log_type),
            raw_purchase=answers.raw_purchase,
        )

    @torch.inference_mode()
    def rebuild(self, hidden: HiddenStates, batch: StepBatch) -> None:
        """Advance the hidden states only, to rebuild them from the last events after a change of model."""
        if len(batch):
            self._backend.advance(hidden.states, arrange(batch.slots), self._inputs(batch))

    def tail(self, name: str, values: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Return the probability that an event's window feature is at least this value; `name` is one of TAILS."""
        if name not in TAILS:
            raise KeyError(f"no tail table for {name}: there are {', '.join(TAILS)}")
        return np.exp(self.content.calibration.tails[name](values))

    def _inputs(self, batch: StepBatch) -> Inputs:
        return self._encoder.encode(
            batch.event_type,
            column(batch.item, np.int32),
            column(batch.category, np.int32),
            batch.gap_s,
            batch.ts,
            batch.price,
            batch.quantity,
            batch.windows,
        )

    def _blank(self, m: int) -> StepBatch:
        return StepBatch(
            slots=np.arange(m, dtype=np.int64) // 2,
            event_type=np.zeros(m, np.int8),
            item=np.full(m, self.none_item, np.int32),
            category=np.full(m, self.none_category, np.int32),
            gap_s=np.full(m, -1.0, np.float32),
            ts=np.zeros(m, np.int64),
            price=np.full(m, np.nan, np.float32),
            quantity=np.ones(m, np.int32),
            windows=np.zeros((m, len(WINDOW_FEATURES)), np.float32),
            recent=np.full((m, RECENT_ITEMS), self.none_item, np.int32),
            first=np.ones(m, np.bool_),
        )


def finite(result: StepResult) -> npt.NDArray[np.bool_]:
    """Return for each of m events whether all its answers are finite, (m,).

    A hidden state that is not finite makes its answers not finite, since every head reads all of it.
    """
    numbers = np.column_stack(
        (result.next_event, result.raw_purchase, result.purchase, result.p_value, result.scores)
    )
    return np.asarray(np.isfinite(numbers).all(axis=1), np.bool_)


def label_of(folder: Path) -> str:
    """Return "name@version" of a model folder, from its manifest; no other file is read.

    Raises ModelError if the folder has no readable manifest.
    """
    try:
        manifest = msgspec.json.decode(files.read_file(folder, folders.MANIFEST), type=folders.Manifest)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ModelError(f"There is no model at {folder} that can be read.") from error
    return f"{manifest.name}@{manifest.version}"


def choose_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is CUDA if there is one. Raises ModelError if it is absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"torch knows no device {name!r}: use auto, cpu or cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"This machine offers no CUDA device, but {name!r} was requested: use auto or cpu.")
    return device
