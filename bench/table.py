"""What a benchmark returns, and how it is printed: the floor beside our figure, their ratio, the goal and whether it is met."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Row:
    """One line of the table."""

    what: str
    unit: str
    ours: list[float]
    floor: list[float] = field(default_factory=list)
    floor_is: str = ""
    #: At most this many times the floor's median, or at most this many units.
    ratio: float | None = None
    limit: float | None = None
    #: True where more is better: the goal is then "at least".
    more: bool = False

    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        ours = median(self.ours)
        if self.ratio is not None:
            return (ours >= self.ratio * median(self.floor)) if self.more else (ours <= self.ratio * median(self.floor))
        if self.limit is not None:
            return (ours >= self.limit) if self.more else (ours <= self.limit)
        return None


def quantile(values: list[float], q: float) -> float:
    """The smallest sample that at least the fraction q of all samples do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]


def median(values: list[float]) -> float:
    """The nearest-rank median."""
    return quantile(values, 0.5)


def timed(action: Callable[[], object]) -> float:
    """Milliseconds that the action takes."""
    began = time.perf_counter()
    action()
    return (time.perf_counter() - began) * 1000


def alternate(count: int, floor: Callable[[], float], ours: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Samples of both, in turns. Each function returns its own figure, so that it can leave set-up and clean-up out of it."""
    floors, figures = [], []
    for _ in range(count):
        floors.append(floor())
        figures.append(ours())
    return floors, figures


def show(value: float) -> str:
    """Three significant digits, no exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def print_table(rows: list[Row]) -> None:
    """The table, plain text, widths fitted."""
    head = ("what", "n", "floor p50 / p95", "ours p50 / p95", "ratio", "goal", "")
    lines = [head]
    for row in rows:
        goal = ""
        if row.ratio is not None:
            goal = f"{'≥' if row.more else '≤'} {row.ratio:g}×"
        elif row.limit is not None:
            goal = f"{'≥' if row.more else '≤'} {row.limit:g} {row.unit}"
        floor = f"{show(median(row.floor))} / {show(quantile(row.floor, 0.95))} {row.unit}" if row.floor else "–"
        ratio = f"{median(row.ours) / median(row.floor):.2f}×" if row.floor else ""
        ours = f"{show(median(row.ours))} / {show(quantile(row.ours, 0.95))} {row.unit}" if len(row.ours) > 1 else f"{show(row.ours[0])} {row.unit}"
        what = row.what + (f" (floor: {row.floor_is})" if row.floor_is else "")
        lines.append((what, str(len(row.ours)), floor, ours, ratio, goal, {True: "met", False: "MISSED", None: ""}[row.met()]))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
