"""The embedded broker, on a real Kafka throughout."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from stream_app.lab.broker import (
    BrokerExitedError,
    DownloadError,
    EmbeddedKafka,
    FolderError,
    FolderInUseError,
    NotReadyError,
    NotRunningError,
    PortTakenError,
    status,
    storage,
)
from stream_app.lab.broker.artifacts import PINS, check, is_private
from stream_app.lab.broker.config import server_properties
from stream_app.lab.broker.errors import ForgedJarError, InsecureRepositoryError
from stream_app.lab.broker.install import install
from stream_app.lab.broker.locks import file_lock
from stream_app.lab.broker.ports import FREE_PORTS, free_port, is_free
from stream_app.lab.broker.probe import missing
from stream_app.lab.commands.broker import app

pytestmark = pytest.mark.kafka


@pytest.fixture
def own(tmp_path: Path) -> Iterator[EmbeddedKafka]:
    """A broker for the test alone, not started."""
    broker = EmbeddedKafka(tmp_path / "broker", heap_mb=256)
    yield broker
    broker.stop()


@pytest.fixture
def listener() -> Iterator[int]:
    """A port on which another program listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def create(broker: EmbeddedKafka, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])
    finally:
        await admin.close()


async def produce(broker: EmbeddedKafka, topic: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all") as producer:
        await producer.send_and_wait(topic, value)


async def consume(broker: EmbeddedKafka, topic: str, group: str, count: int) -> list[bytes | None]:
    """Read the next `count` records as a member of a group, and commit them."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=broker.bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    async with consumer:
        values = [(await consumer.getone()).value for _ in range(count)]
        await consumer.commit()
    return values


async def test_record_goes_in_and_comes_out(kafka: EmbeddedKafka, prefix: str) -> None:
    """A topic can be created, written and read through a group as soon as `start` has returned."""
    await create(kafka, prefix + "clicks")
    await produce(kafka, prefix + "clicks", b"one")
    assert await consume(kafka, prefix + "clicks", prefix + "g", 1) == [b"one"]


def test_listens_on_loopback_only(kafka: EmbeddedKafka) -> None:
    """Broker and controller cannot be reached from outside the machine."""
    listening = [
        c.laddr.ip for c in psutil.Process(kafka.pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN
    ]
    assert len(listening) == 2
    assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}


async def test_records_and_offsets_survive_restart_and_kill(own: EmbeddedKafka, prefix: str) -> None:
    """A clean restart and a restart after SIGKILL keep port, cluster, records and committed offsets."""
    own.start()
    port, before = own.port, status(own.data_dir)
    await create(own, "t")
    await produce(own, "t", b"one")
    assert await consume(own, "t", "g", 1) == [b"one"]
    own.restart()
    await produce(own, "t", b"two")
    assert await consume(own, "t", "g", 1) == [b"two"]
    await produce(own, "t", b"three")
    killed = own.pid
    own.kill()
    assert not psutil.pid_exists(killed)
    assert not own.running
    own.restart()
    assert await consume(own, "t", "g", 1) == [b"three"]
    assert await consume(own, "t", "another", 3) == [b"one", b"two", b"three"]
    after = status(own.data_dir)
    assert before is not None
    assert after is not None
    assert own.port == port
    assert after.cluster_id == before.cluster_id


def test_second_start_on_same_folder_is_refused(kafka: EmbeddedKafka) -> None:
    """Two brokers never share a folder; the first one continues undisturbed."""
    with pytest.raises(FolderInUseError, match=f"process id {kafka.pid}.*stop"):
        EmbeddedKafka(kafka.data_dir).start()
    assert missing(kafka.port, timeout_s=5) is None


def test_start_beside_another_start_is_refused(own: EmbeddedKafka) -> None:
    """While one program starts a broker on the folder, a second one gets an error that says so."""
    with file_lock(own.data_dir / "broker.lock"), pytest.raises(FolderInUseError, match="another start"):
        own.start()


def test_port_taken(tmp_path: Path, listener: int) -> None:
    """A port in use is named before Java is started."""
    with pytest.raises(PortTakenError, match=f"Port {listener} .*choose another"):
        EmbeddedKafka(tmp_path, port=listener).start()
    assert not (tmp_path / "broker.json").exists()


def test_free_port_lost_before_java_binds_it(
    own: EmbeddedKafka, listener: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another program takes the port that was found free, the next one is tried."""
    ports = iter([listener, *(free_port() for _ in range(3))])
    monkeypatch.setattr(storage, "free_port", lambda besides=0: next(ports))
    own.start()
    assert own.port != listener
    assert missing(own.port, timeout_s=5) is None


def test_stale_files_do_not_block(own: EmbeddedKafka) -> None:
    """Files left by a crash that name a dead or a foreign process, or are incomplete, are recognised."""
    own.data_dir.mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for pid in (ended.pid, os.getpid()):
        note = {"pid": pid, "port": 9092, "cluster_id": "c"}
        (own.data_dir / "broker.json").write_text(json.dumps(note))
        assert status(own.data_dir) is None
    (own.data_dir / "broker.json").write_text('{"pid": 12')
    own.start()
    info = status(own.data_dir)
    assert info is not None
    assert (info.pid, info.bootstrap) == (own.pid, own.bootstrap)


def test_early_exit_shows_why(tmp_path: Path) -> None:
    """A setting that Kafka refuses gives an error with Kafka's own text, and leaves no process."""
    broker = EmbeddedKafka(tmp_path, properties={"num.partitions": "many"})
    with pytest.raises(BrokerExitedError, match=r"exit code 1.*(?s:.*)many.*num\.partitions"):
        broker.start()
    assert not broker.running


def test_wrong_java_option_shows_why(tmp_path: Path) -> None:
    """Java's own errors, before a log exists, are shown too."""
    with pytest.raises(BrokerExitedError, match="heap"):
        EmbeddedKafka(tmp_path, heap_mb=0).start()


def test_not_ready_in_time_leaves_no_process(tmp_path: Path) -> None:
    """After the time limit the error names what was missing, and Java is stopped."""
    broker = EmbeddedKafka(tmp_path)
    with pytest.raises(NotReadyError, match="waiting for: the port to open"):
        broker.start(timeout_s=0.0)
    assert (tmp_path / "broker.json").exists()
    assert not broker.running


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A file in place of the data folder gives one clear sentence."""
    (tmp_path / "data").write_text("")
    with pytest.raises(FolderError, match="cannot be written"):
        EmbeddedKafka(tmp_path).start()


def test_first_start_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an empty cache and an unreachable repository, the error names both; each attempt starts again."""
    monkeypatch.setenv("FORECLICK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("FORECLICK_MAVEN_URL", f"http://127.0.0.1:{free_port()}")
    for _ in range(2):
        with pytest.raises(DownloadError, match=r"refused.*connect to the network"):
            EmbeddedKafka(tmp_path / "data").start()


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("https://maven.example", True),
        ("http://127.0.0.1:8081/maven", True),
        ("http://[::1]:8081", True),
        ("http://localhost", True),
        ("http://maven.example", False),
        ("http://127.0.0.1.maven.example", False),
        ("http://10.0.0.1", False),
        ("ftp://127.0.0.1", False),
        ("maven.example", False),
    ],
)
def test_jars_come_by_tls_only(url: str, taken: bool) -> None:
    """Plain http is for a repository on this machine; a name that only begins like its address is another machine."""
    assert is_private(url) is taken


def test_a_repository_without_tls_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first start an insecure repository is refused, with the setting to change."""
    monkeypatch.setenv("FORECLICK_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("FORECLICK_MAVEN_URL", "http://maven.example")
    with pytest.raises(InsecureRepositoryError, match="use https"):
        EmbeddedKafka(tmp_path / "data").start()


def test_a_forged_jar_is_not_run(tmp_path: Path) -> None:
    """The pins are exactly those of the installed jars; an added byte, or an added jar, is refused."""
    made = install()
    jars = [made.folder / jar for jar in made.jars]
    check(jars, "here")
    assert sorted(path.name for path in jars) == [line.split()[1] for line in PINS.read_text().splitlines()]
    forged = tmp_path / jars[0].name
    forged.write_bytes(jars[0].read_bytes() + b"x")
    unknown = tmp_path / "unknown-1.0.jar"
    unknown.write_bytes(jars[0].read_bytes())
    for jar in (forged, unknown):
        with pytest.raises(ForgedJarError, match=jar.name):
            check([jar], "here")


@pytest.mark.slow
@pytest.mark.parametrize("locale", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_a_folder_may_have_any_name(tmp_path: Path, locale: dict[str, str]) -> None:
    """Data folder and cache with umlauts, other letters, commas, colons and blanks: the broker starts, keeps its
    files there and nowhere else, and a topic made in the first start is there in the second.
    """
    odd = tmp_path / "Jür:gen, 日本 %d ${b} #"
    odd.mkdir()
    folder, cache = odd / "ka,fka", odd / "ca:che"
    cache.mkdir()
    real = install()
    (cache / real.folder.name).symlink_to(real.folder)
    env = {**os.environ, **locale, "FORECLICK_CACHE_DIR": str(cache)}
    foreclick = [sys.executable, "-c", "from stream_app.cli import main; main()"]

    def run(*words: str) -> str:
        done = subprocess.run(
            [*foreclick, *words],
            env=env,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    for words in (("topics", "--create"), ("topics",)):
        facts = json.loads(run("broker", "start", "--port", "0", "--json", "--data-dir", str(folder)))
        try:
            run(*words, "--brokers", facts["bootstrap"])
        finally:
            assert "stopped." in run("broker", "stop", "--data-dir", str(folder))
    assert {path.name for path in tmp_path.iterdir()} == {odd.name}
    assert {path.name for path in odd.iterdir()} == {folder.name, cache.name}
    assert (folder / "logs" / "kafka.log").stat().st_size > 0


def test_records_are_private(tmp_path: Path) -> None:
    """With the usual umask other users cannot read a broker's files, even those of an older version."""
    before = os.umask(0o022)
    try:
        (tmp_path / "data").mkdir(mode=0o755)
        with EmbeddedKafka(tmp_path):
            modes = {name: (tmp_path / name).stat().st_mode & 0o077 for name in ("data", "logs", "tmp")}
    finally:
        os.umask(before)
    assert modes == {"data": 0, "logs": 0, "tmp": 0}


def test_second_process_waits_for_the_first_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of two first starts at the same time, the second waits and uses the installation of the first."""
    real = install()
    monkeypatch.setenv("FORECLICK_CACHE_DIR", str(tmp_path))
    found = []
    second = threading.Thread(target=lambda: found.append(install()))
    with file_lock(tmp_path / f"{real.folder.name}.lock"):
        second.start()
        second.join(timeout=0.3)
        assert second.is_alive()
        (tmp_path / real.folder.name).symlink_to(real.folder)
    second.join(timeout=30)
    assert [made.jars for made in found] == [real.jars]


def test_attach_needs_a_running_broker(tmp_path: Path) -> None:
    """Attaching to a folder without a broker is refused with the remedy."""
    with pytest.raises(NotRunningError, match="foreclick broker start"):
        EmbeddedKafka.attach(tmp_path)


def test_missing_is_answered_for_anything_on_the_port(listener: int) -> None:
    """A port that accepts connections without answering does not count as a broker, nor does a closed one."""
    assert "answer" in str(missing(listener, timeout_s=0.1))
    assert missing(free_port(), timeout_s=0.1) == "the port to open"


def test_free_ports_lie_below_outgoing_ones(listener: int) -> None:
    """Free ports are outside the range of outgoing connections, and ports in use are noticed."""
    assert free_port() in FREE_PORTS
    assert not is_free(listener)


@given(
    st.integers(1, 65535),
    st.integers(1, 65535),
    st.dictionaries(
        st.from_regex(r"[a-z.]{1,20}", fullmatch=True), st.from_regex(r"[a-z0-9]{1,9}", fullmatch=True)
    ),
)
def test_own_properties_win(port: int, controller_port: int, extra: dict[str, str]) -> None:
    """Each property is in the file once, with the caller's value if there is one."""
    lines = server_properties("d", port, controller_port, extra).splitlines()
    written = dict(line.split("=", 1) for line in lines)
    assert len(written) == len(lines)
    assert written | extra == written
    if "listeners" not in extra:
        assert (
            written["listeners"] == f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}"
        )


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: int) -> None:
    """start, status and stop as a user sees them: texts, JSON and exit codes."""
    monkeypatch.setenv("FORECLICK_DATA_DIR", str(tmp_path))
    run = CliRunner()
    assert run.invoke(app, ["status"]).exit_code == 3
    taken = run.invoke(app, ["start", "--port", str(listener)])
    assert isinstance(taken.exception, PortTakenError)
    assert taken.output == ""
    started = run.invoke(app, ["start", "--port", "0", "--json"])
    try:
        assert started.exit_code == 0, started.output
        facts = json.loads(started.stdout)
        again = run.invoke(app, ["start", "--port", "0"])
        assert isinstance(again.exception, FolderInUseError)
        assert str(facts["pid"]) in str(again.exception)
        shown = run.invoke(app, ["status"])
        assert shown.exit_code == 0
        assert facts["bootstrap"] in shown.stdout
        assert json.loads(run.invoke(app, ["status", "--json"]).stdout) == facts | {
            "data_dir": str(tmp_path / "broker")
        }
    finally:
        stopped = run.invoke(app, ["stop"])
    assert stopped.exit_code == 0
    assert "stopped." in stopped.stdout
    assert not psutil.pid_exists(facts["pid"])
    assert run.invoke(app, ["stop"]).stdout.startswith("No broker runs")


def test_foreground_ends_with_its_program(tmp_path: Path) -> None:
    """`start --foreground` stops the broker cleanly on a signal."""
    main = [sys.executable, "-c", "from stream_app.cli import main; main()"]
    command = [*main, "broker", "start", "--port", "0", "--foreground", "--json", "--data-dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        facts = json.loads(program.stdout.readline())
        broker = psutil.Process(facts["pid"])
        program.terminate()
        assert program.wait(timeout=60) == 143
    broker.wait(timeout=10)  # its parent has ended: its new parent may take a moment to notice its end
    assert (tmp_path / "data" / ".kafka_cleanshutdown").exists()
