"""Curves of a soak run from its CSV; runs in an environment of its own that has matplotlib.

python soak_plot.py SAMPLES.csv PICTURE.png TITLE
"""

import csv
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

COLOUR, LINE = "#1f6fb4", "#c0392b"
#: Columns and their titles, from top to bottom.
PANELS = (
    ("predictions_s", "predictions per second"),
    ("p99_ms", "append to acknowledged prediction, p99, ms"),
    ("lag", "lag, records"),
    ("rss_mb", "memory of the worker, MB"),
    ("fds", "open descriptors"),
    ("threads", "threads"),
)
JUDGED = ("rss_mb", "fds", "threads")


def line(x: list[float], y: list[float]) -> tuple[float, float]:
    """Return slope and value at x = 0 of the least-squares line."""
    n, mean_x, mean_y = len(x), sum(x) / len(x), sum(y) / len(y)
    spread = sum((a - mean_x) ** 2 for a in x) or n
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
    return slope, mean_y - slope * mean_x


def panel(axes: Axes, minutes: list[float], values: list[float], title: str, judged: bool) -> None:
    """Draw one curve, and the line that decides the verdict."""
    axes.plot(minutes, values, color=COLOUR, linewidth=1)
    if judged:
        first = minutes[-1] / 4
        late = [(x, y) for x, y in zip(minutes, values, strict=True) if x >= first]
        slope, start = line(*map(list, zip(*late, strict=True)))
        ends = [first, minutes[-1]]
        axes.plot(ends, [start + slope * x for x in ends], color=LINE, linewidth=1, linestyle="--")
    most = max((v for v in values if v == v), default=0.0)  # NaN if nothing was predicted
    axes.set_ylim(0, most * 1.25 or 1)
    axes.set_title(title, fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", alpha=0.3)


def main(source: Path, target: Path, title: str) -> None:
    """Draw the picture."""
    with source.open() as file:
        rows = list(csv.DictReader(file))
    minutes = [float(row["seconds"]) / 60 for row in rows]
    figure, places = plt.subplots(3, 2, figsize=(11, 7), sharex=True, layout="constrained")
    for axes, (name, text) in zip(places.T.flat, PANELS, strict=True):
        panel(axes, minutes, [float(row[name]) for row in rows], text, name in JUDGED)
    for axes in places[-1]:
        axes.set_xlabel("minutes", fontsize=8)
    figure.suptitle(title, fontsize=11)
    figure.savefig(target, dpi=120)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
