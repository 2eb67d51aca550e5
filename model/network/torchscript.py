"""The one place that calls TorchScript, which newer releases of torch announce as deprecated."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from model.network.step import Step


@contextmanager
def _no_deprecation() -> Iterator[None]:
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning):  # the latter up to torch 2.14
            warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is (deprecated|not supported)", category)
        yield


def compile_step(step: Step) -> torch.jit.ScriptModule:
    """Return the step as TorchScript, in evaluation mode."""
    with _no_deprecation():
        scripted: torch.jit.ScriptModule = torch.jit.script(step.eval())
    return scripted


def to_bytes(scripted: torch.jit.ScriptModule) -> bytes:
    """Return the TorchScript file of a step."""
    buffer = io.BytesIO()
    with _no_deprecation():
        torch.jit.save(scripted, buffer)
    return buffer.getvalue()


def from_bytes(content: bytes, device: torch.device) -> torch.jit.ScriptModule:
    """Return the step in a TorchScript file, on a device. Raises RuntimeError where torch cannot read it."""
    with _no_deprecation():
        scripted: torch.jit.ScriptModule = torch.jit.load(io.BytesIO(content), map_location=device)
    return scripted.eval()
