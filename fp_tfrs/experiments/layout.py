"""A table of formatted entries → Markdown, or HTML for the report: the same texts in both.

In: a `Table`, which `tables.py` fills. Out: text to stand in a file of its own (Markdown), or within a page (HTML).
"""

from __future__ import annotations

import dataclasses
import html
import re
from collections.abc import Sequence
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Entry:
    """What stands in a cell of a table.

    Attributes:
        text: the figure; empty = there is none.
        small: what is printed smaller behind it.
        place: best and second of its column are marked.
        mark: a sign behind the figure, such as †.
    """

    text: str = ""
    small: str = ""
    place: Literal["", "best", "second"] = ""
    mark: str = ""


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of entries.

    Attributes:
        title: what heads it.
        heads: names of the columns that say what a row is.
        groups: (name, its columns) from left to right; without names there is one line of headings alone.
        rows: (what it is, entries); entries as many as columns.
        notes: sentences below, that say how to read it.
    """

    title: str
    heads: tuple[str, ...]
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    rows: tuple[tuple[tuple[str, ...], tuple[Entry, ...]], ...]
    notes: tuple[str, ...] = ()

    def to_markdown(self) -> str:
        """GitHub's Markdown, with a heading of the third level; names and notes show as they are."""
        columns = [
            f"{_escape(group)}<br>{_escape(column)}" if group else _escape(column)
            for group, names in self.groups
            for column in names
        ]
        lines = [
            f"### {_escape(self.title)}",
            "",
            _line([*map(_escape, self.heads), *columns]),
            _line([":--"] * len(self.heads) + ["--:"] * len(columns)),
            *(_line([*map(_escape, heads), *map(_markdown_entry, entries)]) for heads, entries in self.rows),
        ]
        for note in self.notes:
            lines += ["", _escape(note)]
        return "\n".join(lines) + "\n"

    def to_html(self) -> str:
        """A <table> and its notes, without the title: no style, script or link; all texts escaped."""
        is_grouped = any(name for name, _ in self.groups)
        rows = f' rowspan="{1 + is_grouped}"'
        heads = "".join(f'<th scope="col"{rows}>{html.escape(head)}</th>' for head in self.heads)
        columns = "".join(f'<th scope="col">{html.escape(name)}</th>' for _, names in self.groups for name in names)
        groups = "".join(
            f'<th scope="colgroup" colspan="{len(names)}">{html.escape(group)}</th>' for group, names in self.groups
        )
        lines = [
            "<table>",
            "<thead>",
            *([f"<tr>{heads}{groups}</tr>", f"<tr>{columns}</tr>"] if is_grouped else [f"<tr>{heads}{columns}</tr>"]),
            "</thead>",
            "<tbody>",
            *(
                "<tr>"
                + "".join(f'<th scope="row">{html.escape(head)}</th>' for head in names)
                + "".join(f"<td>{_html_entry(entry)}</td>" for entry in entries)
                + "</tr>"
                for names, entries in self.rows
            ),
            "</tbody>",
            "</table>",
            *(f'<p class="note">{html.escape(note)}</p>' for note in self.notes),
        ]
        return "\n".join(lines) + "\n"


def _line(texts: Sequence[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _markdown_entry(entry: Entry) -> str:
    text = _escape(entry.text or "–")
    text = {"": text, "best": f"**{text}**", "second": f"<u>{text}</u>"}[entry.place]
    return text + entry.mark + (f" <small>{_escape(entry.small)}</small>" if entry.small else "")


def _html_entry(entry: Entry) -> str:
    text = html.escape(entry.text or "–")
    text = {"": text, "best": f"<b>{text}</b>", "second": f"<u>{text}</u>"}[entry.place]
    return text + entry.mark + (f" <small>{html.escape(entry.small)}</small>" if entry.small else "")


def _escape(text: str) -> str:
    """The text as Markdown that shows it; what could not be mistaken for markup stays as it is."""
    return re.sub(r"[\\`*~|]|(?<!\w)_|_(?!\w)|<(?=[a-zA-Z/!?])|&(?=#?\w+;)|(?<=\])[(\[]", r"\\\g<0>", text)
