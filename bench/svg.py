"""A few shapes of SVG, and axes: enough for the plots, the same bytes for the same figures.

Colours are classes, so that one file suits a light and a dark page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final
from xml.sax.saxutils import escape

STYLE: Final = """\
    svg { color-scheme: light dark; }
    text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "Liberation Sans", sans-serif; }
    text { fill: #1f2328; }
    .title { font-size: 17px; font-weight: 600; }
    .head { font-weight: 600; }
    .note { font-size: 12px; fill: #57606a; }
    .card { fill: #ffffff; stroke: #d0d7de; }
    .grid { stroke: #e3e7ec; }
    .axis { stroke: #8c96a3; }
    .end { text-anchor: end; } .mid { text-anchor: middle; }
    .bar-a { fill: #3b74c9; } .bar-b { fill: #9aa7b8; } .bar-c { fill: #c2731a; }
    .line-a, .line-b, .line-c { fill: none; stroke-width: 2.4; }
    .line-a { stroke: #3b74c9; } .line-b { stroke: #8c96a3; } .line-c { stroke: #c2731a; }
    .dash { stroke-dasharray: 5 4; }
    .dot-a { fill: #3b74c9; } .dot-b { fill: #8c96a3; } .dot-c { fill: #c2731a; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3; }
      .note { fill: #9aa4af; }
      .card { fill: #0d1117; stroke: #30363d; }
      .grid { stroke: #262c34; }
      .bar-a, .dot-a { fill: #5b93e6; } .line-a { stroke: #5b93e6; }
      .bar-b, .dot-b { fill: #76818f; } .line-b { stroke: #76818f; }
      .bar-c, .dot-c { fill: #dd9142; } .line-c { stroke: #dd9142; }
    }
"""
DASHED: Final = " dash"


@dataclass
class Picture:
    """An SVG picture on a card; `title` and `summary` are read out where it cannot be seen."""

    width: int
    height: int
    title: str
    summary: str
    parts: list[str] = field(default_factory=list)

    def text(self, x: float, y: float, words: str, kind: str = "") -> None:
        """Words, with their baseline at `y`."""
        self.parts.append(f'<text x="{_number(x)}" y="{_number(y)}"{_class(kind)}>{escape(words)}</text>')

    def upright(self, x: float, y: float, words: str) -> None:
        """Words from below to above, centred at `y`."""
        turned = f'transform="rotate(-90 {_number(x)} {_number(y)})"'
        self.parts.append(
            f'<text x="{_number(x)}" y="{_number(y)}" {turned}{_class("note mid")}>{escape(words)}</text>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line."""
        ends = f'x1="{_number(x1)}" y1="{_number(y1)}" x2="{_number(x2)}" y2="{_number(y2)}"'
        self.parts.append(f"<line {ends}{_class(kind)}/>")

    def bar(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """A filled rectangle."""
        size = f'x="{_number(x)}" y="{_number(y)}" width="{_number(width)}" height="{_number(height)}"'
        self.parts.append(f'<rect {size} rx="2"{_class(kind)}/>')

    def curve(self, points: Sequence[tuple[float, float]], colour: str, style: str = "") -> None:
        """Points joined by lines, with a dot on each."""
        joined = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        self.parts.append(f'<polyline points="{joined}"{_class(f"line-{colour}{style}")}/>')
        self.parts += [
            f'<circle cx="{_number(x)}" cy="{_number(y)}" r="3.5"{_class(f"dot-{colour}")}/>' for x, y in points
        ]

    def __str__(self) -> str:
        inner = "\n".join(f"  {part}" for part in self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" role="img"'
            f' aria-labelledby="title desc">\n'
            f'  <title id="title">{escape(self.title)}</title>\n  <desc id="desc">{escape(self.summary)}</desc>\n'
            f"  <style>\n{STYLE}  </style>\n"
            f'  <rect x="0.5" y="0.5" width="{self.width - 1}" height="{self.height - 1}" rx="10" class="card"/>\n'
            f"{inner}\n</svg>\n"
        )


@dataclass(frozen=True)
class Panel:
    """The area that a plot fills, and where values lie in it."""

    picture: Picture
    left: float
    top: float
    width: float
    height: float

    @property
    def bottom(self) -> float:
        """Where the horizontal axis is."""
        return self.top + self.height

    def up(self, ticks: Sequence[float], unit: str, *, logarithmic: bool = False) -> Callable[[float], float]:
        """Draw the vertical axis with its grid; returns where a value lies."""
        low, high = ticks[0], ticks[-1]

        def place(value: float) -> float:
            share = (
                math.log(max(value, low) / low) / math.log(high / low) if logarithmic else (value - low) / (high - low)
            )
            return self.bottom - share * self.height

        for tick in ticks:
            y = place(tick)
            self.picture.line(self.left, y, self.left + self.width, y, "axis" if tick == low else "grid")
            self.picture.text(self.left - 8, y + 4, amount(tick), "note end")
        self.picture.upright(self.left - 50, self.top + self.height / 2, unit)
        return place

    def along(self, labels: Sequence[str], unit: str) -> list[float]:
        """Draw the horizontal axis with evenly spaced labels; returns where each lies."""
        step = self.width / len(labels)
        places = [self.left + step * (number + 0.5) for number in range(len(labels))]
        for x, label in zip(places, labels, strict=True):
            self.picture.text(x, self.bottom + 19, label, "note mid")
        self.picture.text(self.left + self.width / 2, self.bottom + 39, unit, "note mid")
        return places


def ticks_to(highest: float, count: int = 5) -> list[float]:
    """Round numbers from 0 to at least `highest`, about `count` of them."""
    rough = highest / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough)
    return [step * number for number in range(math.ceil(round(highest / step, 6)) + 1)]


def decades(lowest: float, highest: float) -> list[float]:
    """Powers of ten from below `lowest` to above `highest`."""
    first, last = math.floor(math.log10(lowest)), math.ceil(math.log10(highest))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]


def amount(value: float) -> str:
    """A number as short as it can be read: 0.5, 20, 50k, 2M."""
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _number(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
