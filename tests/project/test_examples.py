"""The programs of docs/examples that read the files of `foreclick run`; the others run in tests/integration."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
START_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
MINUTE_MS = 60_000


def run(program: str, lines: list[dict[str, Any]], folder: Path, *words: str) -> list[list[str]]:
    """Return the words of each line that a program prints for a file of JSON lines."""
    file = folder / "lines.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / program), str(file), *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return [line.split() for line in done.stdout.splitlines()]


def test_flag_limits_counts_users_beyond_each_limit(tmp_path: Path) -> None:
    """The most extreme value per user and day decides: the smallest p-value, the largest ratio of an amount."""
    reasons = [
        ("u1", {"code": "click_rate", "value": 15, "expected": 5, "limit": 5}),
        ("u1", {"code": "click_rate", "value": 50, "expected": 5, "limit": 5}),
        ("u2", {"code": "click_rate", "value": 10, "expected": 5, "limit": 5}),
        ("u3", {"code": "amount_jump", "value": 60.0, "expected": 10.0, "limit": 20.0}),
        ("u4", {"code": "unlikely_event", "value": 0.002, "expected": 0.02, "limit": 0.02}),
    ]
    flags = [{"user_id": user, "ts": START_MS + i, "reasons": [why]} for i, (user, why) in enumerate(reasons)]
    found = {(code, limit): users for code, limit, users, *_ in run("flag_limits.py", flags, tmp_path)}
    assert [found["click_rate", limit] for limit in ("10", "40", "60")] == ["1.0", "1.0", "0.0"]
    assert [found["amount_jump", limit] for limit in ("5", "8")] == ["1.0", "0.0"]
    assert [found["unlikely_event", limit] for limit in ("0.002", "0.001")] == ["1.0", "0.0"]


def test_probability_table_counts_purchases_within_the_horizon(tmp_path: Path) -> None:
    """Events before the given time, and those whose horizon is not over, are left out."""

    def prediction(topic: str, minute: int, user: str, chance: float) -> dict[str, Any]:
        return {
            "id": f"{topic}-0-{minute}",
            "user_id": user,
            "ts": START_MS + minute * MINUTE_MS,
            "horizon_ms": 30 * MINUTE_MS,
            "purchase_probability": chance,
        }

    predictions = [
        prediction("clicks", 0, "u1", 0.9),  # before the given time
        prediction("clicks", 10, "u1", 0.25),  # bought after 20 minutes
        prediction("clicks", 11, "u2", 0.21),  # bought after 31 minutes: too late
        prediction("purchases", 30, "u1", 0.01),  # its own purchase does not count
        prediction("purchases", 42, "u2", 0.01),
        prediction("clicks", 72, "u3", 0.5),  # its horizon is not over
    ]
    start = "2026-01-01T00:05:00+00:00"
    header, *rows = run("probability_table.py", predictions, tmp_path, start)
    assert header[0] == "probability"
    assert rows == [["0.00", "2", "0.010", "0.000"], ["0.20", "2", "0.230", "0.500"]]
