"""What reads configurations and data, each as a case to make up and a check that fails when it answers otherwise than it says.

Every reader here says what it raises: `InputError` or `RunError` with one sentence. Rows never raise: they become dead letters.
"""

import contextlib
import gzip
import io
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from hostile import BOMB, MERGE_BOMB, byte_strings, rows, scalars, value_trees

from fp_tfrs import config_file
from fp_tfrs.config import DataConfig, RunConfig, SourceConfig, dump, parse, parse_since
from fp_tfrs.data import examples, manifest, sources
from fp_tfrs.data.events import BadRow, Event, EventParser, NotAClick, Tally, TooOld, latest_time, read_events
from fp_tfrs.data.sessions import Session, cut_sessions
from fp_tfrs.datasets import raw_files
from fp_tfrs.errors import InputError, RunError
from fp_tfrs.experiments.plan import Experiment
from fp_tfrs.experiments.titles import TitlesPlan

LATEST_S = 2_000_000_000.0
MOST_CHARACTERS = 4_000  # of a message


class Parser(NamedTuple):
    """A reader: the cases it is given, and what is asked of it for one; the check returns whether the case was taken."""

    cases: st.SearchStrategy[Any]
    check: Callable[[Any], bool]


@contextlib.contextmanager
def refusing(*words: str) -> Iterator[list[str]]:
    """Lets the documented errors pass, if their message is one that a user can read; the list has it then."""
    said: list[str] = []
    try:
        yield said
    except (InputError, RunError) as error:
        said.append(str(error))
        assert said[0].strip() and len(said[0]) < MOST_CHARACTERS, f"{len(said[0])} characters: {said[0][:200]}"
        for word in words:
            assert word in said[0], said[0][:500]


RULE = {"column": "rating", "op": "<=", "value": 3.5}
DATA = {
    "source": {"format": "csv", "files": ["log.csv"]},
    "columns": {
        "item_id": "item",
        "timestamp": "time",
        "session_id": "session",
        "user_id": "user",
        "feedback": {"rating": "float", "plays": "int", "liked": "bool", "mood": "string"},
    },
    "click_when": [{"column": "liked", "op": "==", "value": True}],
    "false_positive_when": [RULE, {"ratio": ["plays", "rating"], "op": ">", "value": 2}],
}
RUN = {
    "name": "films",
    "seed": 3,
    "data": {
        **DATA,
        "since": "30d",
        "satisfaction": {"ratio": ["rating", "plays"]},
        "sessions": {"gap_s": 60, "max_length": 20},
        "history": {"max_items": 5},
        "unclicked": {"source": "impressions", "shown_when": [RULE]},
        "split": {"by": "random", "valid": 0.2},
    },
    "model": {
        "method": "fp_metric",
        "tower": {"name": "sasrec", "embedding_dim": 8, "max_positions": 20},
        "loss": {"margin": 0.5},
        "xdm": {},
    },
    "training": {"batch_size": 4, "length_buckets": [4, 8]},
    "tuner": {
        "enabled": True,
        "search": {"model.loss.margin": [0.1, 1], "model.loss.lambda_fp": {"min": 0.1, "max": 1}},
    },
    "evaluation": {"floors": {"mrr@20": 0.05}},
    "beam": {"runner": "PortableRunner", "options": {"job_endpoint": "host:1", "experiments": ["a", "b"]}},
    "kubeflow": {"nodes": {"Trainer": {"memory_gb": 32}}, "environment": {"A": "b"}},
}
SMALL_RUN = {
    "name": "films",
    "data": {"source": {"format": "simulated", "simulation": {}}, "columns": {"session_id": "s"}},
    "model": {"method": "vanilla"},
}
EXPERIMENT = {
    "name": "gate",
    "title": "Which gate?",
    "seeds": [1, 2],
    "data_sets": {"films": {"config": "films.yaml", "set": {"data.shards": 1}, "titles": None}},
    "towers": {"narm": {"set": {"model.tower": {"name": "narm"}}}},
    "methods": {"vanilla": {}, "fp_metric": {"search": {"model.loss.margin": [0.5, 1]}}},
    "sweep": {"model.loss.lambda_fp": [0.1, 1]},
    "against": ["vanilla"],
    "metrics": ["hr@20"],
}
TITLES = {"source": {"format": "csv", "files": ["titles.csv"], "separator": ";"}, "item_id": "id", "title": "name"}
SECTIONS = [(RunConfig, RUN), (RunConfig, SMALL_RUN), (Experiment, EXPERIMENT), (TitlesPlan, TITLES)]


def config_texts(folder: Path) -> Parser:
    path = folder / "config.yaml"
    valid = [yaml.safe_dump(values, sort_keys=False).encode() for _, values in SECTIONS]
    valid += [
        BOMB.encode(),
        f"name: *b11\n{BOMB}".encode(),
        MERGE_BOMB.encode(),
        b"a: &a [*a]\n",
        b"data: &a {source: *a}",
    ]

    def check(content: bytes) -> bool:
        path.write_bytes(content)
        with refusing(str(path)) as said:
            config_file.load(str(path))
        for kind in (Experiment, TitlesPlan) if said and b"source" in content[-300:] else ():
            with refusing(str(path)):
                config_file.load_section(str(path), kind)
        return not said

    return Parser(byte_strings(valid), check)


def config_values(folder: Path) -> Parser:
    del folder

    def check(case: tuple[int, Any]) -> bool:
        kind = SECTIONS[case[0]][0]
        if not isinstance(case[1], dict):
            return False
        with refusing("config") as said:
            section = config_file.parse_values(case[1], "config", kind)
            assert kind is not RunConfig or parse(kind, dump(section)) == section  # as nodes get it
        return not said

    trees = [st.tuples(st.just(number), value_trees([values])) for number, (_, values) in enumerate(SECTIONS)]
    return Parser(st.one_of(*trees), check)


def since_texts(folder: Path) -> Parser:
    del folder
    valid = [b"30d", b"2026-11-01", b"2026-11-01T03:00:00+01:00", b"12h"]

    def check(case: tuple[str, float]) -> bool:
        try:
            since_s = parse_since(case[0]).resolve(case[1])
        except ValueError as error:
            assert "ISO 8601" in str(error) and len(str(error)) < MOST_CHARACTERS
            return False
        manifest.format_time(since_s)
        return True

    texts = st.one_of(scalars.map(str), byte_strings(valid).map(lambda text: text.decode(errors="surrogateescape")))
    return Parser(st.tuples(texts, st.sampled_from([0.0, 5.5, LATEST_S])), check)


ROW = {
    "item": "a",
    "time": "100",
    "session": "s",
    "user": "u",
    "rating": "3.5",
    "plays": "2",
    "liked": "true",
    "mood": "calm",
}


def log_values(folder: Path) -> Parser:
    """Rows as values, as JSON and Parquet have them, through to the example."""
    del folder
    configs = [DataConfig.model_validate(DATA | {"time_unit": unit}) for unit in ("s", "ms", "iso8601")]
    parsers = [EventParser(config, LATEST_S, since_s=50.0) for config in configs]
    kinds = configs[0].columns.feedback

    def check(case: tuple[int, dict[str, Any]]) -> bool:
        parser = parsers[case[0]]
        row = sources.RawRow(1, case[1], "", None)
        parser.parse_time(row)
        found = parser.parse(row)
        if not isinstance(found, Event):
            assert isinstance(found, NotAClick | TooOld) or len(found.reason) < 200
            return not isinstance(found, BadRow)
        cut = cut_sessions(found.session_key, [found[1:]] * 2, configs[0].sessions, tuple(kinds), has_session_id=True)
        assert (cut.duplicate_events, cut.short_events) == (1, 1)
        session = Session(
            found.session_key, (found.item_id,), (False,), found.user_id, (int(found.timestamp_s),),
            {name: (value,) for name, value in zip(kinds, found.feedback)},
        )  # fmt: skip
        again = examples.decode_session(examples.encode_session(session, kinds))
        assert (again.session_id, again.item_id, again.user_id) == (
            session.session_id,
            session.item_id,
            session.user_id,
        )
        return True

    valid = [ROW, ROW | {"time": "2026-11-22T10:00:00Z"}, ROW | {"rating": 0.0, "plays": 5, "liked": True, "time": 1e9}]
    return Parser(st.tuples(st.integers(0, 2), st.sampled_from(valid).flatmap(rows)), check)


def _read_log(path: Path, source: dict[str, Any], n_lines: int | None = None) -> bool:
    """Reads a log as a run does; every row must be accounted for."""
    data = DataConfig.model_validate(DATA | {"source": {"files": [str(path)], **source}})
    tally, letters = Tally(), io.StringIO()
    with refusing(str(path)) as said:
        if path.stat().st_size:
            sources.check_source(data)
            sources.count_rows(str(path), data.source)
            latest_time(str(path), data, LATEST_S)
            n_events = sum(isinstance(event, Event) for event in read_events(str(path), data, LATEST_S, tally, letters))
            assert n_events == tally.clicks
            assert tally.rows == tally.clicks + tally.impressions + tally.older + tally.bad.total()
            assert n_lines is None or tally.rows <= n_lines
            found = [json.loads(line) for line in letters.getvalue().splitlines()]
            assert len(found) == tally.bad.total() and all(letter["reason"] for letter in found)
    return not said and tally.clicks > 0


_TABLE = [ROW, ROW | {"item": "b", "mood": 'x, "y"'}, ROW | {"item": "ü", "time": "200"}, ROW | {"liked": "no"}]


def csv_files(folder: Path) -> Parser:
    variants: list[tuple[dict[str, Any], bytes]] = []
    for separator in (",", "\t", "::", ";", '"', "\n", "é"):
        lines = [separator.join(ROW), *(separator.join(map(str, row.values())) for row in _TABLE)]
        variants.append(({"format": "csv", "separator": separator}, "\r\n".join(lines).encode()))
    variants.append(({"format": "csv", "header": False, "column_names": list(ROW)}, b"\xef\xbb\xbf" + b"\n".join(
        ",".join(row.values()).encode() for row in _TABLE)))  # fmt: skip
    path = folder / "log.csv"

    def check(case: tuple[int, bytes]) -> bool:
        path.write_bytes(case[1])
        with refusing():
            source = variants[case[0]][0]
            with contextlib.suppress(ValueError):  # some separators are refused
                SourceConfig.model_validate(source | {"files": ["x"]})
                return _read_log(path, source, case[1].count(b"\n") + 1)
        return False

    cases = [st.tuples(st.just(n), byte_strings([content])) for n, (_, content) in enumerate(variants)]
    return Parser(st.one_of(*cases), check)


def jsonl_files(folder: Path) -> Parser:
    content = b"\n".join(
        json.dumps(row).encode() for row in [*_TABLE, ROW | {"plays": 3, "liked": True, "rating": 2.5}]
    )
    packed = gzip.compress(content)
    path, packed_path = folder / "log.jsonl", folder / "log.jsonl.gz"

    def check(content: bytes) -> bool:
        target = packed_path if content[:2] == packed[:2] else path
        target.write_bytes(content)
        return _read_log(target, {"format": "jsonl"})

    return Parser(st.one_of(byte_strings([content]), byte_strings([content]), byte_strings([packed])), check)


_TYPES = [
    pa.string(), pa.large_string(), pa.binary(), pa.int64(), pa.uint64(), pa.int8(), pa.float64(), pa.float32(), pa.bool_(),
    pa.date32(), pa.date64(), pa.timestamp("s"), pa.timestamp("ns"), pa.timestamp("us", "UTC"), pa.timestamp("ms", "x/y"),
    pa.time64("ns"), pa.duration("s"), pa.decimal128(38, 2), pa.list_(pa.int64()), pa.struct([("a", pa.string())]),
    pa.dictionary(pa.int32(), pa.string()), pa.null(), pa.map_(pa.string(), pa.int64()),
]  # fmt: skip


def _table(columns: dict[str, tuple[int, list[int], bytes]]) -> pa.Table:
    """A table with the log's columns, some of another type and with any bits for values."""
    arrays = {name: pa.array([row[name] for row in _TABLE]) for name in ROW}
    for name, (number, values, bits) in columns.items():
        kind = _TYPES[number]
        with contextlib.suppress(pa.ArrowException, ValueError, TypeError, OverflowError):
            if pa.types.is_string(kind):
                arrays[name] = pa.array([bits] * len(_TABLE), pa.binary()).view(pa.string())
            else:
                whole = pa.array((values * len(_TABLE))[: len(_TABLE)], pa.int64())
                arrays[name] = whole.view(kind) if kind.bit_width == 64 else whole.cast(kind)
    return pa.table(arrays)


def parquet_tables(folder: Path) -> Parser:
    """Whole files, whose columns are of other types, or hold what no Python value can."""
    path = folder / "log.parquet"

    def check(columns: dict[str, tuple[int, list[int], bytes]]) -> bool:
        try:
            pq.write_table(_table(columns), path)
        except (pa.ArrowException, ValueError, KeyError):
            return False
        return _read_log(path, {"format": "parquet"})

    value = st.sampled_from([0, 1, -1, 10**9, 10**15, 2**62, -(2**63), 2**63 - 1])
    column = st.tuples(st.integers(0, len(_TYPES) - 1), st.lists(value, min_size=1, max_size=4), st.binary(max_size=4))
    return Parser(st.dictionaries(st.sampled_from(sorted(ROW)), column, max_size=3), check)


def as_parquet(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def parquet_files(folder: Path) -> Parser:
    path = folder / "broken.parquet"
    table = pa.Table.from_pylist(_TABLE)

    def check(content: bytes) -> bool:
        path.write_bytes(content)
        return _read_log(path, {"format": "parquet"})

    valid = [as_parquet(table), as_parquet(table, compression="none", use_dictionary=False)]
    return Parser(byte_strings(valid), check)


def published_files(folder: Path) -> Parser:
    """Text files as data set builders read them."""
    path = folder / "published.csv"
    valid = [b'\xef\xbb\xbfuser,item,time\r\n1,2,3\r\n"1","2,5",3\r\n', b"user,item,time\n" + b"7,8,9\n" * 20]

    def check(content: bytes) -> bool:
        path.write_bytes(content)
        with refusing(str(path)) as said:
            parts = raw_files.text_parts(str(path), ",", part_bytes=40)
            found = list(itertools.chain.from_iterable(raw_files.read_text(part, ("user", "item")) for part in parts))
            assert len(found) <= content.count(b"\n") + 1
        return not said

    return Parser(byte_strings(valid), check)


PARSERS: dict[str, Callable[[Path], Parser]] = {
    "config files": config_texts,
    "config values": config_values,
    "times since": since_texts,
    "log values": log_values,
    "CSV": csv_files,
    "JSON lines": jsonl_files,
    "Parquet tables": parquet_tables,
    "Parquet bytes": parquet_files,
    "published files": published_files,
}
