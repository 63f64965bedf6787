"""Sections `data.*`: from an event log to sessions and their splits."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import pydantic

from fp_tfrs import schema
from fp_tfrs.config.section import Section, field
from fp_tfrs.config.since import parse_since

_TFDS_FIELDS = ("name", "config", "manual_dir", "data_dir")


class SimulationConfig(Section):
    """The log that `fp-tfrs simulate` draws (see `fp_tfrs/simulation/simulate.py` for the generative model)."""

    sessions: int = field(20_000, "sessions to draw", ge=10)
    items: int = field(1_000, "catalogue size", ge=100)
    seed: int = field(17, "seed of the whole log", ge=0)
    slate: int | None = field(
        None, "K: items shown at each step, of which one is clicked or none; null = clicks only", ge=2, le=50
    )


class SourceConfig(Section):
    """Where the events are and how they are written."""

    format: Literal["csv", "jsonl", "parquet", "tfds", "simulated"] = field(
        ..., "csv also reads TSV: see separator; tfds: a public data set by name"
    )
    files: tuple[str, ...] = field(
        (), "paths or globs (on a disk also **), `$VARIABLES` expanded; names that end in .gz are decompressed"
    )
    separator: str = field(",", "csv: one or more characters between fields", min_length=1)
    header: bool = field(True, "csv: the first line names the columns")
    column_names: tuple[str, ...] = field((), "csv without header: the columns' names in order")
    simulation: SimulationConfig | None = field(None, "simulated: which log to draw")
    name: str | None = field(None, "tfds: the data set, one of fp_tfrs/datasets/")
    config: str | None = field(None, "tfds: its variant; null = the first")
    manual_dir: str | None = field(
        None, "tfds: folder of the published files; null = fetch them, where that is allowed"
    )
    data_dir: str | None = field(
        None, "tfds: folder of all prepared data sets; null = ~/tensorflow_datasets", "TensorFlow Datasets"
    )

    @pydantic.field_validator("separator")
    @classmethod
    def _check_separator(cls, separator: str) -> str:
        if '"' in separator or "\0" in separator or len(f"{separator}x".splitlines()) > 1:
            raise ValueError("quotes, line breaks and NUL separate no fields; give another one")
        return separator

    @pydantic.model_validator(mode="after")
    def _check(self) -> SourceConfig:
        if self.format in ("simulated", "tfds"):
            needed = "simulation" if self.format == "simulated" else "name"
            if self.files or getattr(self, needed) is None:
                raise ValueError(f"format: {self.format} needs {needed} and no files")
        elif not self.files:
            raise ValueError(f"format: {self.format} needs files: one path or glob at least")
        for name, owner in (("simulation", "simulated"), *((name, "tfds") for name in _TFDS_FIELDS)):
            if getattr(self, name) is not None and self.format != owner:
                raise ValueError(f"{name} goes with format: {owner} only")
        if self.format == "csv" and not self.header and not self.column_names:
            raise ValueError("header: false needs column_names, the columns in order")
        if self.column_names and (self.header or self.format != "csv"):
            raise ValueError("column_names goes with format: csv and header: false only")
        if self.format != "csv" and (self.separator, self.header) != (",", True):
            raise ValueError("separator and header go with format: csv only")
        name, count = next(iter(Counter(self.column_names).most_common(1)), ("", 0))
        if count > 1:
            raise ValueError(f"column_names has {name!r} {count} times; name each column once")
        return self


class ColumnsConfig(Section):
    """Which column of the log is what."""

    item_id: str = field("item_id", "the clicked item")
    timestamp: str = field("timestamp", "when it was clicked, in time_unit")
    session_id: str | None = field(
        None, "the session, unique over all users; without it sessions are cut per user_id by sessions.gap_s"
    )
    user_id: str | None = field(None, "the user")
    clicked_item_ids: str | None = field(
        None,
        "in a log with an impression of several items a row: item_id is the list of what was shown, this the list of what "
        "was clicked of it; each item becomes a row of its own, with the other columns of the impression",
    )
    feedback: dict[str, Literal["float", "int", "bool", "string"]] = field(
        {}, "feedback columns and their types: rules may use them, and they travel with each event"
    )

    @pydantic.model_validator(mode="after")
    def _check(self) -> ColumnsConfig:
        if self.session_id is None and self.user_id is None:
            raise ValueError("neither session_id nor user_id is mapped; sessions need one of them")
        if self.clicked_item_ids is not None and self.clicked_item_ids in (self.item_id, *self.feedback):
            raise ValueError(
                f"clicked_item_ids: {self.clicked_item_ids!r} is mapped twice; name the list of clicked items"
            )
        reserved = sorted(set(self.feedback) & set(schema.RESERVED_FEATURES))
        if reserved:
            raise ValueError(f"feedback column {reserved[0]!r} has a reserved name; rename it in the log")
        return self


class MeasureConfig(Section):
    """A value of each event: one feedback column, or the ratio of two: `{column: dwell_s}` or
    `{ratio: [play_time_ms, duration_ms]}`."""

    column: str | None = field(None, "a feedback column")
    ratio: tuple[str, str] | None = field(None, "numerator and denominator, both numeric feedback columns")

    @pydantic.model_validator(mode="after")
    def _check(self) -> MeasureConfig:
        if (self.column is None) == (self.ratio is None):
            raise ValueError("give either column or ratio")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        return self.ratio or (self.column,)  # type: ignore[return-value]


class RuleConfig(MeasureConfig):
    """A comparison on such a value: `{column: rating, op: "<=", value: 5}` or
    `{ratio: [play_time_ms, duration_ms], op: "<", value: 0.3}` (a ratio with denominator 0 is never true)."""

    op: Literal["<", "<=", ">", ">=", "==", "!="] = field(..., "comparison")
    value: bool | int | float | str = field(..., "what to compare with")


class SessionsConfig(Section):
    """How events become sessions."""

    gap_s: float | None = field(
        None, "without session_id: a pause longer than this starts a new session; null = one per user", gt=0
    )
    min_length: int = field(2, "shorter sessions are dropped, and counted", "SR-GNN's preprocessing", ge=2)
    max_length: int = field(50, "of longer sessions the last events are kept", "SDM; RecBole", ge=2)
    same_time: Literal["item_id", "hash"] = field(
        "item_id",
        "order of a session's events of one time: by id, from which a model learns that the next id is larger, or by a hash, which "
        "tells nothing; where such events are more than data.max_bad_share of the clicks, hash is asked for",
    )


class HistoryConfig(Section):
    """What a session knows of its user's past: the items kept in earlier sessions, each once, latest first."""

    max_items: int = field(20, "H: the latest items that are kept", "SDM", ge=1)
    window_days: float = field(7.0, "how long before the session's start they were clicked at most", "SDM", gt=0)


class UnclickedConfig(Section):
    """What a user was shown and did not click, before each event of a session."""

    source: Literal["impressions", "false_positives"] = field(
        "impressions",
        "what counts as shown: rows that are impressions, or, in a log without them, abandoned clicks; there kept clicks "
        "are what counts as clicked",
        "XDM; false_positives: our choice",
    )
    shown_when: tuple[RuleConfig, ...] = field(
        (), "impressions: all must hold for a row that is not a click to count as shown; others are left out"
    )
    window_days: float = field(3.0, "how long before the event it was shown at most", "XDM, appendix B.1", gt=0)
    min_impressions: int = field(
        2,
        "impressions in the window below which an item doesn't count; an abandoned click counts at once",
        "XDM, B.1",
        ge=1,
    )
    max_items: int = field(100, "M: the items shown last that are kept", "XDM, appendix B.1", ge=1)

    @pydantic.model_validator(mode="after")
    def _check(self) -> UnclickedConfig:
        if self.source == "false_positives" and self.shown_when:
            raise ValueError("shown_when goes with source: impressions only")
        return self


class SplitConfig(Section):
    """How sessions are divided into train, valid and test."""

    by: Literal["time", "random"] = field(
        "time", "time: by session start, latest are test; random: by a hash of the session id and the seed"
    )
    valid: float = field(0.1, "share of the sessions for validation", "FP-AdaMetric, 80/10/10", gt=0, lt=1)
    test: float = field(0.1, "share of the sessions for test", "FP-AdaMetric, 80/10/10", gt=0, lt=1)

    @pydantic.model_validator(mode="after")
    def _check(self) -> SplitConfig:
        if self.valid + self.test >= 1:
            raise ValueError(f"valid + test = {self.valid + self.test:g} leaves nothing to train on; keep it below 1")
        return self


class DataConfig(Section):
    """From an event log to sessions."""

    source: SourceConfig = field(..., "the event log")
    columns: ColumnsConfig = field(..., "which column is what")
    time_unit: Literal["s", "ms", "iso8601"] = field("s", "of the timestamp column; iso8601 without offset is UTC")
    since: str | None = field(
        None,
        "read events from this time on: ISO 8601, or a duration before the log's end such as 30d; run --since sets it; "
        "null = all. Of a session that has begun before, what comes after counts",
    )
    click_when: tuple[RuleConfig, ...] = field(
        (), "all must hold for a row to be a click; other rows are impressions, counted and left out"
    )
    false_positive_when: tuple[RuleConfig, ...] = field((), "a click for which any of these holds is a false positive")
    satisfaction: MeasureConfig | None = field(
        None,
        "how much a click was liked, higher = more: dwell, share of it, or rating, as {column: …} or {ratio: [… , …]}; "
        "null = not measured",
    )
    sessions: SessionsConfig = field(SessionsConfig(), "sessions")
    history: HistoryConfig | None = field(None, "users' pasts, for towers with a long-term part; null = none")
    unclicked: UnclickedConfig | None = field(
        None, "what users were shown and did not click, for models with model.xdm; null = none"
    )
    split: SplitConfig = field(SplitConfig(), "splits")
    min_item_support: int = field(
        5, "clicks in the training split below which an item is out of the catalogue", "SR-GNN's preprocessing", ge=1
    )
    max_bad_share: float = field(
        0.05,
        "share of unreadable rows, or of session ids that several users have, above which the run stops",
        ge=0,
        le=1,
    )
    shards: int = field(2, "TFRecord files per split", ge=1)

    @pydantic.field_validator("since", mode="before")
    @classmethod
    def _check_since(cls, value: Any) -> Any:
        if isinstance(value, datetime.date):  # what YAML makes of a time without quotes
            value = value.isoformat()
        if isinstance(value, str):
            parse_since(value)
        return value

    @pydantic.model_validator(mode="after")
    def _check(self) -> DataConfig:
        shown_when = self.unclicked.shown_when if self.unclicked else ()
        for where, rules in (
            ("click_when", self.click_when),
            ("false_positive_when", self.false_positive_when),
            ("unclicked.shown_when", shown_when),
        ):
            for rule in rules:
                for column in rule.columns:
                    _check_rule_column(where, rule, column, self.columns.feedback)
        for column in self.satisfaction.columns if self.satisfaction else ():
            kind = _kind_of("satisfaction", column, self.columns.feedback)
            if kind not in ("float", "int"):
                raise ValueError(
                    f"satisfaction needs numbers, but {column!r} is declared {kind}; declare it float or int"
                )
        if self.history is not None and self.columns.user_id is None:
            raise ValueError("history needs columns.user_id: without users nobody has a past")
        if self.unclicked is not None and self.unclicked.source == "false_positives" and not self.false_positive_when:
            raise ValueError("unclicked.source: false_positives needs false_positive_when, which says what one is")
        if self.unclicked is not None and self.columns.user_id is None:
            raise ValueError("unclicked needs columns.user_id: what was shown is counted per user")
        tells_clicks = bool(self.click_when) or self.columns.clicked_item_ids is not None
        if self.unclicked is not None and self.unclicked.source == "impressions" and not tells_clicks:
            raise ValueError(
                "unclicked.source: impressions needs click_when or columns.clicked_item_ids: without them every row is a click "
                "and nothing was shown; use source: false_positives, or say which rows are clicks"
            )
        return self


def _kind_of(where: str, column: str, feedback: Mapping[str, str]) -> str:
    if column not in feedback:
        known = ", ".join(sorted(feedback)) or "none"
        raise ValueError(f"{where} uses column {column!r}, which columns.feedback does not list (it has: {known})")
    return feedback[column]


def _check_rule_column(where: str, rule: RuleConfig, column: str, feedback: Mapping[str, str]) -> None:
    kind = _kind_of(where, column, feedback)
    numeric = isinstance(rule.value, (int, float)) and not isinstance(rule.value, bool)
    fits = {
        "float": numeric,
        "int": numeric,
        "bool": rule.ratio is None and (isinstance(rule.value, bool) or rule.value in (0, 1)),
        "string": rule.ratio is None and isinstance(rule.value, str),
    }[kind]
    if not fits:
        raise ValueError(f"{where} compares {column!r}, declared {kind}, with {rule.value!r}; give a {kind} value")
