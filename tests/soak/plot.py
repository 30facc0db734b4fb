"""Samples drawn as one SVG: a panel each for memory, handles, threads, queues and latency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from tests.soak.sampling import Sample

WIDTH, HEIGHT, LEFT, TOP, GAP = 900, 150, 60, 30, 34
COLOURS = ("#1b6ca8", "#d1495b", "#2e933c", "#8a5a00", "#6a4c93", "#0a9396", "#555555", "#bb3e03")
Curve = list[tuple[float, float]]


def draw(samples: Sequence[Sample], marks: Sequence[tuple[float, str]], path: Path) -> None:
    """Write the plot. ``marks``: (seconds, what happened), drawn as thin lines."""
    names = sorted({name for sample in samples for name in sample.processes})
    panels: dict[str, dict[str, Curve]] = {}
    for position, title in enumerate(("memory (MB)", "handles", "threads")):
        panels[title] = {
            name: [(s.at_s, float(s.processes[name][position])) for s in samples if name in s.processes]
            for name in names
        }
    for title, field in (("queues", "queue"), ("latency (s), last image to last result", "latency_s")):
        kinds = sorted({kind for sample in samples for kind in getattr(sample, field)})
        panels[title] = {
            kind: [(s.at_s, float(getattr(s, field)[kind])) for s in samples if kind in getattr(s, field)]
            for kind in kinds
        }
    longest = max(sample.at_s for sample in samples) or 1.0
    height = TOP + len(panels) * (HEIGHT + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH + LEFT + 230}" height="{height}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, (title, curves) in enumerate(panels.items()):
        parts += _panel(title, curves, marks, longest, TOP + number * (HEIGHT + GAP))
    path.write_text("\n".join([*parts, "</svg>"]), encoding="utf-8")


def _panel(
    title: str, curves: Mapping[str, Curve], marks: Sequence[tuple[float, str]], longest: float, top: int
) -> list[str]:
    most = max((value for curve in curves.values() for _, value in curve), default=1.0) or 1.0
    parts = [
        f'<text x="{LEFT}" y="{top - 6}" font-weight="bold">{escape(title)}</text>',
        f'<rect x="{LEFT}" y="{top}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>',
        f'<text x="{LEFT - 6}" y="{top + 10}" text-anchor="end">{most:.4g}</text>',
        f'<text x="{LEFT - 6}" y="{top + HEIGHT}" text-anchor="end">0</text>',
        f'<text x="{LEFT + WIDTH}" y="{top + HEIGHT + 13}" text-anchor="end">{longest / 60:.0f} min</text>',
    ]
    for at, what in marks:
        x = LEFT + WIDTH * at / longest
        line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + HEIGHT}" stroke="#ddd">'
        parts.append(f"{line}<title>{escape(what)}</title></line>")
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(
            f"{LEFT + WIDTH * at / longest:.1f},{top + HEIGHT * (1 - value / most):.1f}" for at, value in curve
        )
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.3"/>')
        y = top + 12 + 14 * number
        parts.append(f'<text x="{LEFT + WIDTH + 8}" y="{y}" fill="{colour}">{escape(name)}</text>')
    return parts
