"""How a report's pictures look: one size, one colour for each method, and matplotlib's figure → bytes that a page embeds.

In: what a module of pictures has to draw. Out: `Picture`s in `Group`s in `Section`s, which `report.py` lays out. A picture
is small, about as wide as a phone, and a page sets as many beside each other as fit. Lines and text take the colours of
the reader's light or dark page. Equal figures give equal bytes: ids are hashed with a fixed salt, and there are no dates.
No window and no `pyplot` is involved.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fp_tfrs.experiments.plan import Cell, Experiment
from fp_tfrs.experiments.results import CellResult, Results

# After Okabe & Ito's colours, which colour-blind people can tell apart; the light ones darkened to a contrast of 3 on white.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#c0639a", "#b87800", "#3a97d4", "#808080")
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
INK, _FAINT = "#010203", "#040506"  # stand for the page's colours, see _THEME
_THEME = (
    "<style>:root{--ink:#2b2f36;--faint:#d3d7de}"
    "@media(prefers-color-scheme:dark){:root{--ink:#d7dbe2;--faint:#454b55}}</style>"
)
_LOOK = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fp-tfrs",
    "font.family": ["DejaVu Sans"],  # comes with matplotlib: the same layout everywhere
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
}
_SIZE = (3.7, 2.7)  # inches
_POINTS_SIZE, _POINTS_DPI = (3.4, 3.4), 140


@dataclasses.dataclass(frozen=True)
class Picture:
    """title: above it; alt: what it shows, in words with figures; note: what a reader should take from it; data: the image."""

    title: str
    alt: str
    note: str
    media_type: str
    data: bytes

    @property
    def uri(self) -> str:
        """The image as a `data:` URI."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode()}"


class Group(NamedTuple):
    """Pictures to be seen beside each other."""

    title: str
    pictures: list[Picture]


class Key(NamedTuple):
    """A legend's entry."""

    name: str
    color: str
    line: str
    marker: str


class Section(NamedTuple):
    """identifier: its place in the page; reading: how to read the pictures; keys: the legend."""

    identifier: str
    title: str
    reading: str
    keys: list[Key]
    groups: list[Group]


def method_keys(experiment: Experiment) -> dict[str, Key]:
    """Method → its look, the same in every picture; no two methods of at most 28 look alike."""
    looks = itertools.product(LINES, zip(COLORS, MARKERS, strict=True))
    return {
        method: Key(method, color, line, marker)
        for method, (line, (color, marker)) in zip(experiment.methods, itertools.cycle(looks), strict=False)
    }


def keys_of(cells: Iterable[CellResult], experiment: Experiment) -> list[Key]:
    """The legend of these cells."""
    drawn = {found.cell.method for found in cells}
    return [key for method, key in method_keys(experiment).items() if method in drawn]


def places(results: Results, is_wanted: Callable[[CellResult], bool]) -> Iterator[tuple[str, list[CellResult]]]:
    """The wanted cells of each data set and tower with a heading, in the plan's order."""
    wanted = [found for found in results.cells if is_wanted(found)]
    towers = {found.cell.tower for found in wanted}
    for (data_set, tower), group in itertools.groupby(wanted, key=lambda found: found.cell[:2]):
        yield data_set if len(towers) == 1 else f"{data_set} · {tower}", list(group)


def cell_name(cell: Cell) -> str:
    """A cell among those of its data set and tower."""
    return str(cell).split("/", 2)[2]


def percent(value: float) -> str:
    """The number and its sign, never on two lines."""
    return f"{100 * value:.2f}\u00a0%"


def draw_axes(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """An empty picture of the usual size; `to_svg` makes it an image."""
    with matplotlib.rc_context(_LOOK):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


def to_svg(figure: Figure) -> bytes:
    """<svg> … </svg> with text as text; follows the reader's choice of a light or dark page."""
    buffer = io.BytesIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context(_LOOK):
        figure.savefig(buffer, format="svg", metadata=no_metadata, transparent=True)
    text = buffer.getvalue().decode()
    text = text[text.index("<svg") :].replace("<defs>", _THEME + "<defs>", 1)
    text = text.replace("'DejaVu Sans'", "system-ui, sans-serif")
    return text.replace(INK, "var(--ink)").replace(_FAINT, "var(--faint)").encode()


def draw_points() -> tuple[Figure, Axes]:
    """A square without axes, for thousands of points; `to_webp` makes it an image."""
    figure = Figure(figsize=_POINTS_SIZE)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    return figure, axes


def to_webp(figure: Figure) -> bytes:
    """Points as pixels, without loss, on a transparent ground: a third of the bytes of SVG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="webp", dpi=_POINTS_DPI, transparent=True, pil_kwargs={"lossless": True})
    return buffer.getvalue()
