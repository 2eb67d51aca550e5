"""The compared systems: what each needs, how it is started, and which kind of output it publishes.

A system gets BROKER (host:port), IN and OUT (topics of four partitions), RID (a name unique to the run, for groups
and internal topics), STATE (a folder), THREADS and, for predictions, MODEL from its environment. It runs until
SIGTERM.
"""

import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.peers import environments, java
from bench.peers.check import Answers
from stream_app.lab.broker.ports import free_port
from stream_app.lab.commands.bench import BenchError

APPS = Path(__file__).parent / "apps"
SETUP_LIMIT_S = 60
Job = Literal["j1", "j2"]
#: Roles of the systems in the table: ours, other engines, loops without state.
Role = Literal["ours", "peer", "floor"]


@dataclass(frozen=True)
class WorkPlace:
    """The folders and addresses of one run of a system."""

    state: Path
    processes: int = 1
    threads: int = 1

    def state_of(self, index: int) -> Path:
        """Return the state folder of one of several processes."""
        return self.state if self.processes == 1 else self.state / str(index)


#: Returns the command lines of a system's processes; called before each start, also after a crash.
Commands = Callable[[WorkPlace], list[list[str]]]


@dataclass(frozen=True)
class System:
    """An engine with one job and one setting."""

    name: str
    label: str
    commands: Commands
    install: Callable[[], object] = lambda: None
    job: Job = "j1"
    answers: Answers = "counts"
    role: Role = "peer"
    processes: int = 1
    threads: int = 1
    env: Mapping[str, str] = field(default_factory=dict)
    shares_state: bool = False  #: all processes use one state folder
    before: Callable[[WorkPlace], None] | None = None  #: called once before the first start
    slow: bool = False  #: gets at most `--slow-events`
    crash: bool = True  #: part of the crash test
    timed: bool = True  #: part of the comparison of speed
    java: bool = False
    remark: str = ""


def _once(command: list[str]) -> Commands:
    """Use the same command for each process."""
    return lambda place: [command] * place.processes


def _late(make: Callable[[], list[str]]) -> Commands:
    """Use the same command for each process; it is known only after the system was installed."""
    return lambda place: [make()] * place.processes


def _ours(job: Job) -> Commands:
    return _once([sys.executable, "-c", "from stream_app.cli import main; main()", "bench", "job", job])


def _script(environment: str, name: str) -> Commands:
    return _late(lambda: [str(environments.python_of(environment)), str(APPS / name)])


def _faust(app: str, python: Callable[[], object], *options: str) -> Commands:
    worker = ["worker", "-l", "warn", "--without-web"]
    return _late(lambda: [str(python()), "-m", "faust", "-A", app, *options, *worker])


def _bytewax_store(place: WorkPlace) -> None:
    python = str(environments.python_of("bytewax"))
    command = [python, "-m", "bytewax.recovery", str(place.state), "4"]
    subprocess.run(command, check=True, timeout=SETUP_LIMIT_S, capture_output=True)


def _bytewax(place: WorkPlace) -> list[list[str]]:
    python = str(environments.python_of("bytewax"))
    # Snapshots every 10 s; only the last one is kept.
    run = [python, "-m", "bytewax.run", "bytewax_j1:flow", "-r", str(place.state), "-s", "10", "-b", "0"]
    if place.processes == 1:
        return [run]
    ports: list[int] = []
    while len(ports) < place.processes:
        if (port := free_port()) not in ports:
            ports.append(port)
    addresses = ";".join(f"127.0.0.1:{port}" for port in ports)
    return [[*run, "-i", str(index), "-a", addresses] for index in range(place.processes)]


def _python(name: str) -> Callable[[], object]:
    return lambda: environments.python_of(name)


def _jars(main: str) -> Callable[[], object]:
    return lambda: java.prepare(main)


#: What all settings of one engine have in common.
_Common = dict[str, Any]
_FAUST: _Common = {
    "commands": _faust("faust_j1", _python("faust"), "-L", "uvloop"),
    "install": _python("faust"),
    "slow": True,
}
_QUIX: _Common = {"commands": _script("quix", "quix_j1.py"), "install": _python("quix"), "slow": True}
_BYTEWAX: _Common = {
    "commands": _bytewax,
    "install": _python("bytewax"),
    "before": _bytewax_store,
    "shares_state": True,
    "remark": "keeps one current window per user",
}
_STREAMS: _Common = {
    "commands": _late(lambda: java.prepare("KafkaStreamsJob").command),
    "install": _jars("KafkaStreamsJob"),
    "java": True,
}
_FLINK: _Common = {
    "commands": _late(lambda: java.prepare("FlinkJob").command),
    "install": _jars("FlinkJob"),
    "java": True,
}
_EOS = "exactly_once_v2"
_EVERY_200_MS = {"COMMIT_MS": "200"}

SYSTEMS = (
    System("foreclick", "Foreclick, 1 worker", _ours("j1"), role="ours"),
    System("foreclick-2", "Foreclick, 2 workers", _ours("j1"), role="ours", processes=2, crash=False),
    System("foreclick-200", "Foreclick, commit every 200 ms", _ours("j1"), role="ours", env=_EVERY_200_MS),
    System(
        "foreclick-eos", "Foreclick, exactly_once, commit every 200 ms", _ours("j1"), role="ours",
        env={**_EVERY_200_MS, "GUARANTEE": "exactly_once"},
    ),
    System("flink", "Flink, heap state, parallelism 1", **_FLINK),
    System("flink-2", "Flink, heap state, parallelism 2", **_FLINK, threads=2, crash=False),
    System("flink-rocksdb", "Flink, RocksDB state", **_FLINK, env={"BACKEND": "rocksdb"}, crash=False),
    System("flink-2s", "Flink, checkpoint every 2 s", **_FLINK, env={"CHECKPOINT": "2 s"}, timed=False),
    System("kstreams", "Kafka Streams, 1 thread", **_STREAMS),
    System("kstreams-2", "Kafka Streams, 2 threads", **_STREAMS, threads=2, crash=False),
    System("kstreams-eos", "Kafka Streams, exactly_once_v2", **_STREAMS, env={"GUARANTEE": _EOS}),
    System("kstreams-5s", "Kafka Streams, commit every 5 s", **_STREAMS, env={"COMMIT_MS": "5000"}, timed=False),
    System("bytewax", "Bytewax, 1 worker", **_BYTEWAX),
    System("bytewax-2", "Bytewax, 2 processes", **_BYTEWAX, processes=2, crash=False),
    System("quix", "Quix Streams, 1 process", **_QUIX),
    System("quix-2", "Quix Streams, 2 processes", **_QUIX, processes=2, crash=False),
    System("quix-eos", "Quix Streams, exactly-once", **_QUIX, env={"GUARANTEE": "exactly-once"}, timed=False),
    System("faust", "stock Faust, 1 worker", **_FAUST),
    System("faust-2", "stock Faust, 2 workers", **_FAUST, processes=2, crash=False),
    System(
        "pathway", "Pathway, 1 thread", _script("pathway", "pathway_j1.py"), _python("pathway"),
        answers="changes", env={"PATHWAY_THREADS": "1"}, crash=False,
        remark="publishes changed counts only, not one record per event",
    ),
    System(
        "librdkafka", "librdkafka loop, no state", _script("loops", "loop_librdkafka.py"), _python("loops"),
        answers="bare", role="floor", crash=False,
    ),
    System(
        "aiokafka", "aiokafka loop, no state", _script("loops", "loop_aiokafka.py"), _python("loops"),
        answers="bare", role="floor", crash=False,
    ),
    System("foreclick-j2", "Foreclick, GRU", _ours("j2"), job="j2", answers="predictions", role="ours"),
    System(
        "faust-j2", "stock Faust, take() and GRU", _faust("faust_j2", lambda: sys.executable), job="j2",
        answers="predictions", slow=True,
    ),
)  # fmt: skip


def chosen(names: str | None, job: Job, crash: bool, extra: tuple[str, ...] = ()) -> list[System]:
    """Return the systems of a list of names (by default all of the job), then those of `--cmd name=COMMAND`.

    Raises BenchError for an unknown name.
    """
    known = {system.name: system for system in SYSTEMS if system.job == job}
    if names is None:
        found = [s for s in known.values() if (s.crash if crash else s.timed)]
    else:
        wanted = [name.strip() for name in names.split(",") if name.strip()]
        if wrong := [name for name in wanted if name not in known]:
            raise BenchError(f"there is no system {wrong[0]!r} for {job}: choose one of {', '.join(known)}")
        found = [known[name] for name in wanted]
    return [*found, *(_named(text, job) for text in extra)]


def _named(text: str, job: Job) -> System:
    name, equals, command = text.partition("=")
    if not (name and equals and command):
        raise BenchError(f"--cmd takes name=COMMAND, not {text!r}")
    answers: Answers = "counts" if job == "j1" else "predictions"
    return System(name, name, _once(shlex.split(command)), job=job, answers=answers, role="ours")
