"""One run of one system, alone on the broker: started, watched, ended, judged, measured."""

import shutil
import time
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from bench.peers import machine
from bench.peers.check import Verdict, judge
from bench.peers.figures import Figures, Sample, measure
from bench.peers.generate import Truth
from bench.peers.processes import Workers, usage
from bench.peers.systems import APPS, System, WorkPlace
from bench.peers.topics import Topics

SAMPLE_S = 0.25
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Patience:
    """After how many seconds without a new output a run counts as over."""

    complete: float = 2.5  #: all outputs are there, but more could follow
    changes: float = 8.0  #: the same for a system whose number of outputs is not known in advance
    stalled: float = 60.0  #: outputs are missing
    after_crash: float = 12.0  #: all outputs are there after a crash
    restart: float = (
        150.0  #: no new output after a crash: groups first wait until the session of the killed member ends
    )


@dataclass(frozen=True)
class Bed:
    """What all runs have in common."""

    topics: Topics
    broker_pid: int
    folder: Path
    inputs: Mapping[int, str]  # number of events -> topic that has them
    truths: Mapping[int, Truth]
    limit_s: float  # for one run
    env: Mapping[str, str] = field(default_factory=dict)
    patience: Patience = field(default_factory=Patience)


class Crash(msgspec.Struct, frozen=True):
    """What a SIGKILL at half of the outputs did."""

    outputs_before: int  #: at the moment of the restart
    restart_s: float | None  #: from the restart to the first new output; None if none came


class Result(msgspec.Struct, kw_only=True):
    """The result of one run: either `failure` says why there are no figures, or there are a verdict and figures."""

    system: str
    label: str
    role: str
    answers: str
    remark: str
    round: int
    events: int
    calibration_ms: float
    seconds: float = 0.0
    failure: str | None = None
    verdict: Verdict | None = None
    figures: Figures | None = None
    crash: Crash | None = None


def run(
    system: System,
    bed: Bed,
    events: int,
    number: int,
    *,
    crash: bool = False,
    tell: Progress = lambda _: None,
) -> Result:
    """Run a system once on the first `events` events. `tell` is called with the number of outputs so far."""
    rid = f"{system.name}-{time.time_ns() // 1_000_000:x}"
    folder = bed.folder / rid
    folder.mkdir(parents=True)
    result = Result(
        system=system.name,
        label=system.label,
        role=system.role,
        answers=system.answers,
        remark=system.remark,
        round=number,
        events=events,
        calibration_ms=machine.calibration_ms(),
    )
    begin = time.monotonic()
    bed.topics.create(f"out-{rid}", append_time=True)
    try:
        one = _OneRun(system, bed, events, rid, folder)
        one.go(crash, tell)
        _finish(result, one)
    finally:
        result.seconds = round(time.monotonic() - begin, 1)
        bed.topics.remove(rid)
        shutil.rmtree(folder / "state", ignore_errors=True)
    return result


class _OneRun:
    """Watches one run: its samples, its crash, why it ended."""

    def __init__(self, system: System, bed: Bed, events: int, rid: str, folder: Path) -> None:
        self.system, self.bed, self.events = system, bed, events
        self.out = f"out-{rid}"
        self.samples: list[Sample] = []
        self.failure: str | None = None
        self.started_s = 0.0
        self.restarted_s: float | None = None
        self.outputs_before = 0
        self._place = WorkPlace(folder / "state", system.processes, system.threads)
        env = {
            "BROKER": bed.topics.bootstrap,
            "IN": bed.inputs[events],
            "OUT": self.out,
            "RID": rid,
            "THREADS": str(system.threads),
            "PYTHONPATH": str(APPS),
            **bed.env,
            **system.env,
        }
        self._workers = Workers(folder, env)

    def go(self, crash: bool, tell: Progress) -> None:
        """Start the system, watch it until the run is over, stop it."""
        self._place.state.mkdir()
        if self.system.before:
            self.system.before(self._place)
        with self._workers as workers:
            self.started_s = time.time()
            self._start()
            for outputs in self._watch(crash):
                tell(outputs)
                if crash and self.restarted_s is None and outputs >= self.events // 2:
                    workers.kill()
                    time.sleep(2 * SAMPLE_S)  # for outputs that are still in flight
                    self.outputs_before = self.bed.topics.length(self.out)
                    self.restarted_s = time.time()
                    self._start()
            workers.stop()

    @property
    def last_words(self) -> str:
        """Return the most useful line of the system's log."""
        return self._workers.last_words()

    def _start(self) -> None:
        place = self._place
        shared = self.system.shares_state
        states = [place.state if shared else place.state_of(index) for index in range(place.processes)]
        self._workers.start(self.system.commands(place), states)

    def _watch(self, crash: bool) -> Iterator[int]:
        """Yield the number of outputs from time to time, until no more are expected."""
        end = time.monotonic() + self.bed.limit_s
        most, changed = -1, time.monotonic()
        while True:
            outputs = self.bed.topics.length(self.out)
            self._sample()
            now = time.monotonic()
            if outputs != most:
                most, changed = outputs, now
            if self._is_done(outputs, now - changed, crash):
                return
            if reason := self._workers.ended():
                self.failure = reason
                return
            if now > end:
                self.failure = f"{outputs:,} outputs in {self.bed.limit_s:.0f} s, then it was ended"
                return
            before = self.restarted_s
            yield outputs
            if self.restarted_s != before:
                changed = time.monotonic()
            time.sleep(SAMPLE_S)

    def _is_done(self, outputs: int, quiet_s: float, crash: bool) -> bool:
        """Return whether no more outputs are expected."""
        patience = self.bed.patience
        if crash and self.restarted_s is not None:
            if outputs <= self.outputs_before:
                return quiet_s > patience.restart
            return quiet_s > (patience.after_crash if outputs >= self.events else patience.stalled)
        if self.system.answers == "changes":
            return quiet_s > (patience.changes if outputs else patience.stalled)
        return quiet_s > (patience.complete if outputs >= self.events else patience.stalled)

    def _sample(self) -> None:
        worker, broker = self._workers.usage(), usage([self.bed.broker_pid])
        self.samples.append(
            Sample(time.time(), worker.cpu_s, broker.cpu_s, machine.busy_s(), worker.rss_bytes)
        )


def _finish(result: Result, one: _OneRun) -> None:
    """Judge the outputs and fill in the figures."""
    result.failure = one.failure
    if one.failure:
        return
    times = array("q")

    def outputs() -> Iterator[tuple[bytes | None, bytes]]:
        for key, value, time_ms in one.bed.topics.read(one.out):
            times.append(time_ms)
            yield key, value

    result.verdict = judge(outputs(), one.bed.truths[one.events], one.system.answers)
    if not times:
        result.failure = f"no outputs: {one.last_words}"
        return
    appended = np.sort(np.array(times)) / 1000
    if one.restarted_s is not None:
        new = appended[appended > one.restarted_s]
        restart_s = float(new[0]) - one.restarted_s if len(new) else None
        result.crash = Crash(one.outputs_before, restart_s)
        return
    steady = one.system.answers != "changes"
    result.figures = measure(one.samples, appended, one.events, one.started_s, steady)
