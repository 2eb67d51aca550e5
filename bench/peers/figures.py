"""Computes figures from samples taken during a run and the append times of its outputs, without I/O."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

Times = npt.NDArray[np.float64]  # Unix s, ascending


class Sample(NamedTuple):
    """One sample of a run; CPU in seconds since an arbitrary start."""

    time_s: float  # Unix
    worker_cpu_s: float
    broker_cpu_s: float
    machine_cpu_s: float
    rss_bytes: int


class Figures(msgspec.Struct, frozen=True):
    """The figures of a run. The steady part leaves out the first and the last tenth of the outputs."""

    events_s: float  #: steady
    events_s_whole: float  #: from the first to the last output
    cpu_us: float  #: of the system's processes per event, steady
    cpu_us_whole: float  #: the same, including start and warm-up
    cores: float  #: used by the system, steady
    broker_us: float  #: of the broker per event, steady
    broker_cores: float
    other_cores: float  #: used by neither system nor broker: other load, which disturbed the run
    rss_mb: float  #: peak memory
    start_s: float  #: from the start of the processes to the first output
    span_s: float  #: length of the steady part


def measure(samples: Sequence[Sample], times: Times, events: int, start_s: float, steady: bool) -> Figures:
    """Return the figures of a run of `events` events.

    Set `steady` to False if there is not one output per event: then the whole span counts.
    """
    first, last = float(times[0]), float(times[-1])
    if steady:
        low, high = int(len(times) * 0.1), int(len(times) * 0.9) - 1
        begin, end = float(times[low]), float(times[high])
        share = (high - low) / len(times) * events
    else:
        begin, end, share = first, last, float(events)
    span = max(end - begin, 1e-3)
    columns = np.array([sample[:4] for sample in samples])
    worker, broker, machine = (
        float(np.diff(np.interp((begin, end), columns[:, 0], columns[:, column]))[0]) for column in (1, 2, 3)
    )
    return Figures(
        events_s=share / span,
        events_s_whole=events / max(last - first, 1e-3),
        cpu_us=worker / share * 1e6,
        cpu_us_whole=samples[-1].worker_cpu_s / events * 1e6,
        cores=worker / span,
        broker_us=broker / share * 1e6,
        broker_cores=broker / span,
        other_cores=max(0.0, (machine - worker - broker) / span),
        rss_mb=max(sample.rss_bytes for sample in samples) / 1e6,
        start_s=first - start_s,
        span_s=span,
    )
