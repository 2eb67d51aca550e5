"""A data-quality report as one HTML page with plots: no script, nothing from the network."""

from collections.abc import Sequence
from html import escape

from stream_app.recordings.inspection.measure import Report
from stream_app.recordings.inspection.texts import sections

#: A colour for each event type; the words beside them say the same.
_COLOURS = ("#4477aa", "#ccbb44", "#aa3377")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 760, 180, 64, 22
_STYLE = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 800px; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
td { border-bottom: 1px solid #8884; padding: .25rem .5rem; vertical-align: top }
td:last-child { text-align: right; font-variant-numeric: tabular-nums }
svg { width: 100%; height: auto }
text { font: 12px system-ui, sans-serif; fill: currentColor }
.warning { border-left: 4px solid #cc3311; padding-left: .75rem }
"""


#: How every page begins; a file that begins so may be replaced.
BEGINNING = '<!doctype html><html lang="en"><meta charset="utf-8"><title>Data quality of '


def page(report: Report) -> str:
    """Return the page as text in HTML."""
    name = escape(report.recording)
    elsewhere = report.events - sum(map(sum, report.by_day.values()))
    parts = [
        f"{BEGINNING}{name}</title><style>{_STYLE}</style>",
        f"<h1>Data quality of {name}</h1>",
        *(f'<p class="warning">{escape(warning)}</p>' for warning in report.warnings),
        "<h2>Events per day (UTC)</h2>",
        _legend(list(report.by_type)),
        _bars(list(report.by_day.values()), list(report.by_day)),
        *([f"<p>{elsewhere:,} events lie before or after these days.</p>"] if elsewhere else []),
        "<h2>Events by hour of the day (UTC)</h2>",
        _bars([[n] for n in report.by_hour], [f"{hour:02d}" for hour in range(24)]),
    ]
    for heading, rows in sections(report):
        cells = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
        parts.append(f"<h2>{escape(heading)}</h2><table>{cells}</table>")
    return "\n".join(parts) + "\n</html>\n"


def _legend(names: Sequence[str]) -> str:
    marks = (
        f'<span style="color:{colour}">&#9632;</span> {name}'
        for name, colour in zip(names, _COLOURS, strict=True)
    )
    return f"<p>{' &nbsp; '.join(marks)}</p>"


def _bars(stacks: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """Stacked bars with the highest total on the axis, and as many labels as there is room for."""
    highest = max(map(sum, stacks), default=0) or 1
    step = (_WIDTH - _LEFT) / max(1, len(stacks))
    shapes = [
        f'<text x="{_LEFT - 6}" y="12" text-anchor="end">{highest:,}</text>',
        f'<text x="{_LEFT - 6}" y="{_HEIGHT}" text-anchor="end">0</text>',
        f'<line x1="{_LEFT}" x2="{_WIDTH}" y1="{_HEIGHT}" y2="{_HEIGHT}" stroke="currentColor"/>',
    ]
    every = -(-len(labels) // max(1, int((_WIDTH - _LEFT) / (9 * max(map(len, labels), default=1)))))
    for n, (stack, label) in enumerate(zip(stacks, labels, strict=True)):
        x, below = _LEFT + n * step, float(_HEIGHT)
        for value, colour in zip(stack, _COLOURS, strict=False):
            height = value / highest * (_HEIGHT - 4)
            below -= height
            shapes.append(
                f'<rect x="{x:.2f}" y="{below:.2f}" width="{max(step * 0.85, 0.5):.2f}" height="{height:.2f}" '
                f'fill="{colour}"><title>{escape(label)}: {value:,}</title></rect>'
            )
        if n % every == 0:
            shapes.append(f'<text x="{x:.2f}" y="{_HEIGHT + 16}">{escape(label)}</text>')
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + _BOTTOM}" role="img">{"".join(shapes)}</svg>'
