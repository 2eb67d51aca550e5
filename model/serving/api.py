"""What a stream processor uses of the model."""

from model.artifact.errors import NOT_FINITE, ModelError
from model.artifact.model_folder import Wanted
from model.data.interactions import WINDOW_FEATURES
from model.serving.hidden_states import Slab
from model.serving.runtime import RECENT, Runtime, StepResult, choose_device, finite, label_of
from model.serving.step_types import StepBatch

__all__ = [
    "NOT_FINITE",
    "RECENT",
    "WINDOW_FEATURES",
    "ModelError",
    "Runtime",
    "Slab",
    "StepBatch",
    "StepResult",
    "Wanted",
    "choose_device",
    "finite",
    "label_of",
]
