"""The door for code that runs a model."""

from model.artifact.errors import NOT_FINITE, ModelError
from model.artifact.model_folder import Wanted
from model.data.windows import AMOUNT_WINDOW, LAST_EVENTS, WINDOW_FEATURES, WINDOWS
from model.serving.hidden_states import HiddenStates
from model.serving.runtime import Runtime, StepResult, choose_device, finite, label_of
from model.serving.step_types import StepBatch

__all__ = [
    "AMOUNT_WINDOW",
    "LAST_EVENTS",
    "NOT_FINITE",
    "WINDOWS",
    "WINDOW_FEATURES",
    "HiddenStates",
    "ModelError",
    "Runtime",
    "StepBatch",
    "StepResult",
    "Wanted",
    "choose_device",
    "finite",
    "label_of",
]
