"""Shared by the tests of security and rights with a secured broker: settings, workers, commands."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from stream_app.settings import Settings, load_settings
from tests.integration.harness import Reader, Worker, clicks, committed, produce, wait_for
from tests.integration.secure_broker import SecureKafka


def settings_of(brokers: str, prefix: str, **more: Any) -> Settings:
    """Return the settings of a worker; all come from environment variables, secrets too."""
    chosen = {"brokers": brokers, "topic_prefix": prefix, "group": f"{prefix}group", **more}
    return load_settings(env={f"FORECLICK_{name.upper()}": str(value) for name, value in chosen.items()})


def answers_all(kafka: SecureKafka, prefix: str, worker: Worker, n: int = 200) -> None:
    """Send events and wait for exactly their predictions, then for the commit."""
    records = clicks(n)
    produce(kafka.plain, prefix, records)
    wanted = {f"{prefix}{r.topic}-{r.partition}-{r.offset}" for r in records}
    reader = Reader(kafka.plain, f"{prefix}predictions")
    try:

        def all_there(messages: list[Any]) -> bool:
            worker.check()
            return len(messages) >= n

        got = [json.loads(m.value())["id"] for m in reader.read_until(f"{n} predictions", all_there)]
    finally:
        reader.close()
    assert sorted(got) == sorted(wanted)
    topic = f"{prefix}clicks"
    wait_for("the commit", lambda: sum(committed(kafka.plain, f"{prefix}group", [topic])[topic]) == n, 20)


def run(command: list[str], brokers: str, prefix: str, folder: Path, **settings: Any) -> tuple[int, str]:
    """Run a command of `foreclick`; return its exit code and output."""
    chosen = {
        "brokers": brokers, "topic_prefix": prefix, "group": f"{prefix}group", "data_dir": folder, "web": "",
        "log_level": "debug", **settings
    }  # fmt: skip
    env = {f"FORECLICK_{name.upper()}": str(value) for name, value in chosen.items()}
    done = subprocess.run(
        [sys.executable, "-c", "from stream_app.cli import main; main()", *command],
        env={**os.environ, **env}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr
