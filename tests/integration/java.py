"""Compiles and runs a Java program with the jars of the embedded broker; no JDK is required."""

import hashlib
import os
import shutil
import subprocess
import urllib.request
from pathlib import Path

from stream_app.lab.broker.artifacts import repository_url
from stream_app.lab.broker.config import java_environment, java_executable
from stream_app.lab.broker.install import install
from stream_app.lab.broker.installation import cache_dir
from stream_app.lab.broker.locks import file_lock

RELEASE = "17"  # of the language
LIMIT_S = 120

_ECJ = "ecj-3.43.0.jar"  # Eclipse's compiler, which any Java runs
_ECJ_PATH = "org/eclipse/jdt/ecj/3.43.0"
_ECJ_SHA256 = "c786468c65e906498e7e36ece4e0d04c6d3dd34c9a61b34a3a5b512801911a82"


def class_path(classes: Path) -> str:
    """Return the class path: the compiled classes and all jars of the embedded broker (Kafka's clients, Jackson)."""
    found = install()
    return os.pathsep.join([str(classes), *(str(found.folder / jar) for jar in found.jars)])


def compile_java(source: Path, classes: Path) -> None:
    """Compile one file into a folder, with the machine's own `javac` or with Eclipse's compiler."""
    javac = shutil.which("javac")
    compiler = [javac, "--release", RELEASE] if javac else [*_ecj(), "-source", RELEASE, "-target", RELEASE]
    done = subprocess.run(
        [*compiler, "-cp", class_path(classes), "-d", str(classes), str(source)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def run_java(classes: Path, main: str, *words: str, stdout: Path, stderr: Path) -> "subprocess.Popen[bytes]":
    """Start a compiled program in the Java that runs the embedded broker."""
    with stdout.open("wb") as out, stderr.open("wb") as err:
        return subprocess.Popen(
            [java_executable(), "-cp", class_path(classes), main, *words],
            stdout=out,
            stderr=err,
            env=java_environment(),
        )


def _ecj() -> list[str]:
    """Return the command of Eclipse's compiler, which is fetched once into the cache of the embedded broker."""
    jar = cache_dir() / _ECJ
    with file_lock(jar.with_suffix(".lock")):
        if not jar.exists():
            with urllib.request.urlopen(f"{repository_url()}/{_ECJ_PATH}/{_ECJ}", timeout=60) as answer:
                content = answer.read()
            assert hashlib.sha256(content).hexdigest() == _ECJ_SHA256, f"{_ECJ} is not the published file"
            partial = jar.with_suffix(".partial")
            partial.write_bytes(content)
            partial.rename(jar)
    return [java_executable(), "-jar", str(jar), "-nowarn"]
