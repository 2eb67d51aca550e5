"""The script of docs/model_and_data.md that trains every night: it publishes, or leaves the model in service."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stream_app.lab.broker import EmbeddedKafka
from tests.integration.harness import make_topics

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).parents[2] / "docs" / "examples" / "retrain.sh"
TWO_DAYS_S = 172_800


async def test_a_good_model_is_published_and_another_is_not(
    kafka: EmbeddedKafka, prefix: str, tmp_path: Path
) -> None:
    """`current` points to the first model; a second model that fails the comparison changes nothing."""
    await make_topics(kafka.bootstrap, prefix)
    commands = tmp_path / "bin"
    commands.mkdir()
    foreclick = commands / "foreclick"
    foreclick.write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -c "from stream_app.cli import main; main()" "$@"\n'
    )
    foreclick.chmod(0o755)
    env = {
        **os.environ,
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "MODELS": str(tmp_path / "models"),
        "FORECLICK_BROKERS": kafka.bootstrap,
        "FORECLICK_TOPIC_PREFIX": prefix,
        "FORECLICK_TRAIN_HIDDEN": "16",
        "FORECLICK_TRAIN_EPOCHS": "1",
        "MIN_CASES": "100",
    }

    def call(*words: str, **more: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            words, env={**env, **more}, capture_output=True, text=True, timeout=400, check=False
        )

    recording = str(tmp_path / "shop.stream")
    made = call("foreclick", "generate", "--out", recording, "--events", "4000", "--users", "300",
                "--items", "100", "--span", str(TWO_DAYS_S))  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert call("foreclick", "replay", recording).returncode == 0
    first = call("sh", str(SCRIPT))
    assert first.returncode == 0, first.stderr
    current = tmp_path / "models" / "current"
    published = current.resolve()
    assert first.stdout.splitlines()[-1].endswith(f"/{published.name}")
    assert (published / "manifest.json").is_file()
    second = call("sh", str(SCRIPT), MIN_CASES="1000000")
    assert second.returncode == 1, second.stdout + second.stderr
    assert "mrr@20: " in second.stdout, "it is compared with the model in service"
    assert "not published: only " in second.stderr
    assert current.resolve() == published
    assert sorted(path.name for path in current.parent.iterdir()) == sorted([published.name, "current"])
