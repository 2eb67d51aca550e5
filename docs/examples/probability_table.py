"""Compares predicted with actual purchases, from the predictions of `foreclick run` (JSON lines).

Usage: python probability_table.py out/predictions.jsonl 2026-01-02T00:20:25+00:00
"""

import json
import sys
from bisect import bisect_right
from collections import defaultdict
from datetime import datetime
from pathlib import Path

#: Lower ends of the groups of probabilities.
EDGES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6)


def main(file: str, since: str) -> None:
    """Print per group of probabilities: predictions, mean probability, share followed by a purchase."""
    start_ms = datetime.fromisoformat(since).timestamp() * 1000
    found = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    purchases: dict[str, list[int]] = defaultdict(list)  # times, by user
    for each in found:
        if "purchases-" in each["id"]:  # the prediction for a purchase tells that there was one
            purchases[each["user_id"]].append(each["ts"])
    for times in purchases.values():
        times.sort()
    last_ms = max(each["ts"] for each in found)
    groups: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for each in found:
        ts, horizon, chance = each["ts"], each.get("horizon_ms"), each["purchase_probability"]
        if chance is None or ts < start_ms or ts + horizon > last_ms:
            continue  # no model, learned in training, or the horizon has not ended yet
        times = purchases[each["user_id"]]
        next_one = bisect_right(times, ts)
        bought = next_one < len(times) and times[next_one] <= ts + horizon
        groups[bisect_right(EDGES, chance)].append((chance, bought))
    print("probability from  predictions  mean probability  bought")
    for group, cases in sorted(groups.items()):
        mean = sum(chance for chance, _ in cases) / len(cases)
        rate = sum(bought for _, bought in cases) / len(cases)
        print(f"{EDGES[group - 1]:>16.2f}  {len(cases):>11,}  {mean:>16.3f}  {rate:>6.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
