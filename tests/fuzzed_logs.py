"""What reads logs of impressions, and packed CSV, as cases and checks (see `fuzzed_data.py`)."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
from fuzzed_data import _TABLE, LATEST_S, ROW, Parser, _read_log, as_parquet, refusing
from hostile import as_json, byte_strings, scalars, value_trees

from fp_tfrs.config import DataConfig
from fp_tfrs.data import sources
from fp_tfrs.data.events import Event, EventParser, Shown, Tally, latest_time, read_events
from fp_tfrs.data.sessions import Session
from fp_tfrs.data.unclicked import add_unclicked, to_seen

IMPRESSION = {"shown": ["a", "b", "ü"], "clicked": ["b"], "time": 100, "session": "s", "user": "u", "rating": 3.5}
IMPRESSIONS = [
    IMPRESSION,
    IMPRESSION | {"shown": [1, 2], "clicked": [2, 3], "time": 200},
    IMPRESSION | {"clicked": None, "time": 1_000},
]
LISTS = {
    "columns": {
        "item_id": "shown", "clicked_item_ids": "clicked", "timestamp": "time", "session_id": "session",
        "user_id": "user", "feedback": {"rating": "float"},
    },
    "false_positive_when": [{"column": "rating", "op": "<=", "value": 2}],
    "unclicked": {"shown_when": [{"column": "rating", "op": ">", "value": 1}], "min_impressions": 1},
}  # fmt: skip


def _read_impressions(path: Path, file_format: str) -> bool:
    """Reads a log of impressions as a run does, to what each user was shown; every item must be accounted for."""
    data = DataConfig.model_validate(LISTS | {"source": {"format": file_format, "files": [str(path)]}})
    tally, letters = Tally(), io.StringIO()
    with refusing(str(path)) as said:
        if path.stat().st_size:
            sources.check_source(data)
            latest_time(str(path), data, LATEST_S)
            found = list(read_events(str(path), data, LATEST_S, tally, letters))
            assert tally.clicks == sum(isinstance(event, Event) for event in found)
            assert tally.rows == tally.clicks + tally.impressions + tally.bad.total()
            assert tally.read <= tally.rows  # a row of no items is a bad one
            assert letters.getvalue().count("\n") == tally.bad.total()
            _follow(found, data)
    return not said and tally.clicks > 0


def _follow(found: list[Event | Shown], data: DataConfig) -> None:
    """Sessions of what was found, with the unclicked items of each event."""
    assert data.unclicked is not None
    clicks = [event for event in found if isinstance(event, Event) and event.user_id == "u"]
    seen = [to_seen(event, data.unclicked) for event in found if event.user_id == "u"]
    if clicks:
        clicks.sort(key=lambda event: event.timestamp_s)
        session = Session(
            "s", tuple(event.item_id for event in clicks), (False,) * len(clicks), "u",
            tuple(int(event.timestamp_s) for event in clicks), {},
        )  # fmt: skip
        (found_session,) = add_unclicked([session], seen, data.unclicked)
        assert all(0 <= first < end <= len(clicks) for _, first, end in found_session.unclicked)


def impression_values(folder: Path) -> Parser:
    """Impressions as values: lists of anything, and what is no list."""
    del folder
    data = DataConfig.model_validate(LISTS | {"source": {"format": "jsonl", "files": ["log.jsonl"]}})
    parser = EventParser(data, LATEST_S)

    def check(row: Any) -> bool:
        if not isinstance(row, dict):
            return False
        parts = list(sources.split_items(sources.RawRow(1, row, "", None), data.columns))
        found = [parser.parse(part) for part in parts]
        assert parts and all(len(getattr(event, "reason", "")) < 200 for event in found)
        return any(isinstance(event, Event) for event in found)

    long = st.lists(scalars, max_size=4).map(lambda items: IMPRESSION | {"shown": items, "clicked": items[:1]})
    return Parser(st.one_of(value_trees(IMPRESSIONS), value_trees(IMPRESSIONS), long), check)


def impression_files(folder: Path) -> Parser:
    """The same as JSON lines and as Parquet files, of lists and of other types."""
    lines, table = folder / "log.jsonl", folder / "log.parquet"
    text = b"\n".join(map(as_json, IMPRESSIONS))
    strings = [row | {"shown": list(map(str, row["shown"]))} for row in IMPRESSIONS]  # type: ignore[call-overload]
    good = [row | {"clicked": row["clicked"] and list(map(str, row["clicked"]))} for row in strings]

    def check(case: tuple[str, Any]) -> bool:
        kind, content = case
        if kind == "rows":
            try:
                content = as_parquet(pa.Table.from_pylist([row for row in content if isinstance(row, dict)]))
            except (pa.ArrowException, ValueError, TypeError, OverflowError, AttributeError):
                return False
        path = lines if kind == "lines" else table
        path.write_bytes(content)
        return _read_impressions(path, "jsonl" if kind == "lines" else "parquet")

    trees = value_trees(IMPRESSIONS).map(lambda row: text + b"\n" + as_json(row))
    whole = [st.tuples(st.just("lines"), contents) for contents in (trees, byte_strings([text]))]
    tables = [
        st.tuples(st.just("rows"), value_trees([good])).filter(lambda case: isinstance(case[1], list)),
        st.tuples(st.just("bytes"), byte_strings([as_parquet(pa.Table.from_pylist(good))])),
    ]
    return Parser(st.one_of(*whole, *tables), check)


def packed_csv(folder: Path) -> Parser:
    """CSV under gzip: broken packing, and what is packed."""
    path = folder / "log.csv.gz"
    content = "\n".join([",".join(ROW), *(json.dumps(list(row.values()))[1:-1] for row in _TABLE)]).encode()
    content = content.replace(b'", "', b'","')

    def check(case: bytes) -> bool:
        path.write_bytes(case)
        return _read_log(path, {"format": "csv"})

    packed = [gzip.compress(content), gzip.compress(content[:60]) + gzip.compress(content[60:])]
    return Parser(st.one_of(byte_strings(packed), byte_strings([content]).map(gzip.compress)), check)


PARSERS: dict[str, Callable[[Path], Parser]] = {
    "impression values": impression_values,
    "impression files": impression_files,
    "packed CSV": packed_csv,
}
