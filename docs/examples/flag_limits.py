"""Counts how many users each limit of the rules would flag, from the flags of a run with very low limits.

Usage: python flag_limits.py loose/flags.jsonl
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

DAY_MS = 86_400_000
#: Limits to compare, for each reason.
LIMITS = {
    "click_rate": (10, 20, 40, 60, 100),
    "many_items": (10, 12, 14, 16, 18),
    "purchase_rate": (2, 3, 5, 10, 20),
    "amount_jump": (3, 5, 8, 12, 20),
    "unlikely_event": (0.01, 0.005, 0.002, 0.001, 0.0005),
}


def severity(reason: dict) -> float:
    """What the limit of a reason is compared with."""
    if reason["code"] == "amount_jump":
        return reason["value"] / max(reason["expected"], 0.01)  # how many times the usual amount
    return reason["value"]


def main(file: str) -> None:
    """Print a table: for each reason and limit, the flagged users per day."""
    worst: dict[str, dict[tuple[str, int], float]] = defaultdict(dict)  # reason -> (user, day) -> severity
    times = []
    for line in Path(file).read_text(encoding="utf-8").splitlines():
        flag = json.loads(line)
        times.append(flag["ts"])
        for reason in flag["reasons"]:
            code, found = reason["code"], severity(reason)
            key = flag["user_id"], flag["ts"] // DAY_MS
            more = min if code == "unlikely_event" else max  # a smaller p-value is more unusual
            worst[code][key] = more(worst[code].get(key, found), found)
    if not times:
        sys.exit(f"{file} has no flags: run with lower limits")
    days = max(1.0, (max(times) - min(times)) / DAY_MS)
    for code, limits in LIMITS.items():
        for limit in limits:
            users = sum(
                found <= limit if code == "unlikely_event" else found > limit
                for found in worst[code].values()
            )
            print(f"{code:<16} {limit:>7g} {users / days:>9.1f} users per day")


if __name__ == "__main__":
    main(sys.argv[1])
