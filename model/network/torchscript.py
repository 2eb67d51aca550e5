"""The one place that calls TorchScript, which newer releases of torch announce as deprecated.

The file of a step holds its weights and its code, and nothing of the machine it was made on: the same training gives
the same bytes, and so the same version of the model, wherever the source code lies.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from model.network.step import Step

#: Torch keeps where each line of code came from in these records: the path of a source file on this machine.
_DEBUG_SUFFIX = ".debug_pkl"
#: The writer of an archive adds these records by itself.
_WRITTEN_BY_TORCH = frozenset({"version", "byteorder", ".data/serialization_id"})


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
    """Return the TorchScript file of a step, without records that name source files."""
    buffer = io.BytesIO()
    with _no_deprecation():
        torch.jit.save(scripted, buffer)
    return _without_debug_records(buffer.getvalue())


def from_bytes(content: bytes, device: torch.device) -> torch.jit.ScriptModule:
    """Return the step in a TorchScript file, on a device. Raises RuntimeError where torch cannot read it."""
    with _no_deprecation():
        scripted: torch.jit.ScriptModule = torch.jit.load(io.BytesIO(content), map_location=device)
    return scripted.eval()


def _without_debug_records(content: bytes) -> bytes:
    reader = torch._C.PyTorchFileReader(io.BytesIO(content))
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    writer.set_min_version(int(reader.get_record("version")))
    for name in reader.get_all_records():
        if name not in _WRITTEN_BY_TORCH and not name.endswith(_DEBUG_SUFFIX):
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return buffer.getvalue()
