"""Bars of events/s and CPU per event from a results.json; runs in an environment of its own that has matplotlib.

python plot.py RESULTS.json PICTURE.png
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter

COLOURS = {"ours": "#1f6fb4", "peer": "#8a8a8a", "floor": "#d5d5d5"}
WRONG = "#c0392b"
LEGEND = {"ours": "Foreclick", "peer": "other engines", "floor": "loops that keep no state"}


def bars(axes: Axes, rows: list[dict[str, Any]], field: str, title: str, log: bool) -> None:
    """Draw one bar per system, the first on top, with its number at its end."""
    values = [row[field] or 0.0 for row in rows]
    drawn = axes.barh(
        range(len(rows)), values, color=[COLOURS[row["role"]] if row["right"] else WRONG for row in rows]
    )
    for bar, row in zip(drawn, rows, strict=True):
        text = f"{row[field]:,.0f}" if (row[field] or 0) >= 100 else f"{row[field] or 0:,.1f}"
        if not row["right"]:
            bar.set(hatch="////", edgecolor="white")
            text = "failed" if row["verdict"].startswith("failed") else "wrong"
        axes.annotate(
            text, (bar.get_width(), bar.get_y() + bar.get_height() / 2), xytext=(4, 0),
            textcoords="offset points", va="center", fontsize=8,
        )  # fmt: skip
    if log:
        axes.set_xscale("log")
    axes.set_title(title, fontsize=10, loc="left")
    axes.margins(x=0.18, y=0.02)
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def main(source: Path, target: Path) -> None:
    """Draw the picture."""
    content = json.loads(source.read_text())
    rows = content["rows"]
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 1.6 + 0.34 * len(rows)), sharey=True, layout="constrained"
    )
    bars(left, rows, "events_s", "events per second, from a backlog", log=False)
    bars(right, rows, "cpu_us", "CPU of the system per event, microseconds (log scale)", log=True)
    left.invert_yaxis()  # the right chart shares this axis
    left.set_yticks(range(len(rows)), [row["label"] for row in rows])
    roles = {row["role"] for row in rows}
    patches = [Patch(color=COLOURS[role], label=text) for role, text in LEGEND.items() if role in roles]
    if not all(row["right"] for row in rows):
        patches.append(Patch(facecolor=WRONG, hatch="////", edgecolor="white", label="wrong or failed"))
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=8, frameon=False)
    machine = content["machine"]
    figure.suptitle(
        f"The same job on the same {machine['cores']} cores ({machine['cpu']}, {machine['date'][:10]})",
        fontsize=11,
    )
    figure.savefig(target, dpi=150)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
