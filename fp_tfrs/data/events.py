"""Rows → events: one row's values checked, typed and labelled as kept or abandoned; the second step of the data's way.

In: a `RawRow`. Out: an `Event` (a click), `NotAClick` (an impression), `TooOld` or a `BadRow` with its reason. Reasons name
columns, never values, so that they can be counted. `read_events` does this for a whole file: it hands on the clicks, and
the impressions that `data.unclicked` wants, tallies the rest and writes bad rows to a dead-letter file.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import json
import math
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TextIO

from dateutil import parser as dateutil_parser

from fp_tfrs.config import DataConfig, RuleConfig
from fp_tfrs.data.sources import RawRow, mapped_columns, read_rows, split_items

MAX_TEXT_BYTES = 1_000  # of an id or a text value
MAX_DEAD_LETTER_CHARACTERS = 500  # of a bad row's text
_MAX_EXACT = 2.0**53 - 1  # beyond it two whole numbers may be the same float
_MAX_FLOAT = 3.4028234e38  # feedback is stored as float32
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Event(NamedTuple):
    """One click. The fields after the first are those of `sessions.SessionEvent`, in its order."""

    session_key: str  # session id, or user id in a log without session ids
    timestamp_s: float
    item_id: str
    is_false_positive: bool
    feedback: tuple[Any, ...]  # values of `columns.feedback`, in its order
    user_id: str


class Shown(NamedTuple):
    """An impression of a known user that counts as shown (`data.unclicked`)."""

    user_id: str
    second: int
    item_id: str


class NotAClick(NamedTuple):
    """An impression that `click_when` leaves out; feedback as far as the rules needed it, else None."""

    feedback: tuple[Any, ...]
    shown: Shown | None = None


class TooOld(NamedTuple):
    """A row of before `data.since`."""


class BadRow(NamedTuple):
    """A row that can't be used."""

    reason: str


class BadValue(Exception):
    """A value that can't be used; its text ends the reason "<column> …"."""


def is_true(rule: RuleConfig, feedback: Mapping[str, Any]) -> bool:
    """Whether the rule holds for these feedback values; a ratio with denominator 0 never does."""
    if rule.ratio is None:
        return _OPERATORS[rule.op](feedback[rule.column], rule.value)  # type: ignore[index]
    numerator, denominator = feedback[rule.ratio[0]], feedback[rule.ratio[1]]
    return denominator != 0 and _OPERATORS[rule.op](numerator / denominator, rule.value)


def describe_rule(rule: RuleConfig) -> str:
    """The rule as a user would say it: `rating <= 5`."""
    return f"{rule.column or '/'.join(rule.ratio or ())} {rule.op} {rule.value}"


class EventParser:
    """Parses rows of one log.

    Args:
      data: which column is what.
      latest_timestamp_s: later times are in the future; given by the caller, so that workers never read the clock.
      since_s: rows of before are too old, whatever else is in them.
    """

    def __init__(self, data: DataConfig, latest_timestamp_s: float, since_s: float = 0.0):
        self._data = data
        self._latest_timestamp_s = latest_timestamp_s
        self._since_s = since_s
        self._feedback = [(name, _PARSERS[kind]) for name, kind in data.columns.feedback.items()]
        self._shown_when: tuple[RuleConfig, ...] | None = None  # None: no impression is wanted
        if data.unclicked is not None and data.unclicked.source == "impressions":
            self._shown_when = data.unclicked.shown_when

    def parse_time(self, row: RawRow) -> float | None:
        """The row's Unix time; None if it has none that can be used."""
        try:
            return None if row.values is None else self._parse_time(row.values.get(self._data.columns.timestamp))
        except BadValue:
            return None

    def parse(self, row: RawRow) -> Event | NotAClick | TooOld | BadRow:
        """A row of `sources.split_items` as an event; never raises."""
        if row.problem is not None:
            return BadRow(row.problem)
        column = ""
        values, columns = row.values or {}, self._data.columns
        try:
            timestamp_s = self._parse_time(values.get(column := columns.timestamp))
            if timestamp_s < self._since_s:
                return TooOld()
            item_id = parse_text(values.get(column := columns.item_id))
            session_id, user_id = None, ""
            if columns.session_id is not None:
                session_id = parse_text(values.get(column := columns.session_id))
            if columns.user_id is not None:
                user = values.get(column := columns.user_id)
                # With session ids, visitors may be unknown.
                user_id = "" if session_id is not None and is_missing(user) else parse_text(user)
            feedback: dict[str, Any] = {}
            is_click = columns.clicked_item_ids is None or bool(values.get(columns.clicked_item_ids))
            for rule in self._data.click_when if is_click else ():
                for column in rule.columns:
                    feedback[column] = _PARSERS[columns.feedback[column]](values.get(column))
                is_click = is_true(rule, feedback)
                if not is_click:
                    break
            if not is_click:
                is_shown = self._shown_when is not None and user_id != ""
                for rule in self._shown_when or ():
                    for column in rule.columns:
                        feedback[column] = _PARSERS[columns.feedback[column]](values.get(column))
                    is_shown = is_shown and is_true(rule, feedback)
                shown = Shown(user_id, math.floor(timestamp_s), item_id) if is_shown else None
                return NotAClick(tuple(feedback.get(name) for name, _ in self._feedback), shown)
            for column, parse in self._feedback:
                if column not in feedback:
                    feedback[column] = parse(values.get(column))
        except BadValue as error:
            return BadRow(f"{column} {error}")
        return Event(
            session_key=user_id if session_id is None else session_id,
            timestamp_s=timestamp_s,
            item_id=item_id,
            is_false_positive=any(is_true(rule, feedback) for rule in self._data.false_positive_when),
            feedback=tuple(feedback[name] for name, _ in self._feedback),
            user_id=user_id,
        )

    def _parse_time(self, value: Any) -> float:
        if isinstance(value, datetime.datetime):  # a Parquet timestamp, whatever the unit
            timestamp_s = _to_seconds(value)
        elif self._data.time_unit == "iso8601":
            timestamp_s = _parse_iso8601(value)
        else:
            timestamp_s = _parse_float(value)
            if self._data.time_unit == "ms":
                timestamp_s /= 1_000
        if timestamp_s < 0:
            raise BadValue("is before 1970")
        if timestamp_s > self._latest_timestamp_s:
            raise BadValue("is in the future")
        return timestamp_s


def _parse_iso8601(value: Any) -> float:
    text = parse_text(value)
    if text[4:5] != "-":  # isoparse would take 1396437466 for a date, and so would Python from 3.11 on 20140402
        raise BadValue("is not an ISO 8601 time")
    try:
        return _to_seconds(datetime.datetime.fromisoformat(text))
    except ValueError:
        pass  # Python 3.10 knows neither Z nor every fraction
    try:
        return _to_seconds(dateutil_parser.isoparse(text))
    except (ValueError, OverflowError):
        raise BadValue("is not an ISO 8601 time") from None


def _to_seconds(time: datetime.datetime) -> float:
    return (time if time.tzinfo else time.replace(tzinfo=datetime.timezone.utc)).timestamp()


def is_missing(value: Any) -> bool:
    """Is there no value: none, NaN as pandas writes it, or a text of spaces alone?"""
    if isinstance(value, (str, bytes)):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def parse_text(value: Any) -> str:
    """An id or text value. Whole numbers are taken as ids; text loses the spaces around it; raises BadValue."""
    text = value.strip() if isinstance(value, str) else _to_text(value)
    if not text:
        raise BadValue("is empty")
    try:
        n_bytes = len(text) if text.isascii() else len(text.encode())
    except UnicodeEncodeError:
        raise BadValue("is not valid Unicode") from None
    if n_bytes > MAX_TEXT_BYTES:
        raise BadValue(f"is longer than {MAX_TEXT_BYTES} bytes")
    if len(text.splitlines()) > 1 or "\0" in text:  # vocabularies are text files, one id a line
        raise BadValue("has a line break")
    return text


def _to_text(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise BadValue("is missing")
    if isinstance(value, bytes):
        try:
            return value.decode().strip()
        except UnicodeDecodeError:
            raise BadValue("is not UTF-8") from None
    if isinstance(value, float) and value.is_integer():
        if abs(value) > _MAX_EXACT:
            raise BadValue("is a number that floats round; write ids as whole numbers or as text")
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise BadValue("is not a text")


def _parse_float(value: Any) -> float:
    if value is None or value == "":
        raise BadValue("is empty")
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        raise BadValue("is not a number")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise BadValue("is not a number") from None
    if math.isnan(number):
        raise BadValue("is NaN")
    if abs(number) > _MAX_FLOAT:
        raise BadValue("is too large")
    return number


def _parse_int(value: Any) -> int:
    """A whole number; 5.0 counts as one, since tools write integer columns with gaps as floats."""
    try:
        number = int(value) if isinstance(value, (int, str)) and "_" not in str(value) else None
    except ValueError:
        number = None
    if number is None:
        real = _parse_float(value)
        if not real.is_integer():
            raise BadValue("is not a whole number")
        number = int(real)
    if not -(2**63) <= number < 2**63:
        raise BadValue("is too large")
    return number


def _parse_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if value is None or value == "":
        raise BadValue("is empty")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    known = _BOOLEANS.get(str(value).strip().lower())
    if known is None:
        raise BadValue("is not true or false")
    return known


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "float": _parse_float,
    "int": _parse_int,
    "bool": _parse_bool,
    "string": parse_text,
}


@dataclasses.dataclass
class Tally:
    """What was seen in a file. `ranges` are those of the feedback columns, impressions included."""

    read: int = 0  # rows of the file, of which one of several items is as many of `rows`
    rows: int = 0
    older: int = 0  # than `data.since`
    impressions: int = 0
    clicks: int = 0
    bad: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)  # by reason
    rule_hits: collections.Counter[int] = dataclasses.field(default_factory=collections.Counter)  # by rule's position
    ranges: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)


def latest_time(path: str, data: DataConfig, latest_timestamp_s: float) -> float:
    """The latest Unix time of a file's rows; 0 if none has one that can be used.

    Raises:
      InputError: the file, rather than one of its rows, can't be read.
    """
    parser = EventParser(data, latest_timestamp_s)
    times = map(parser.parse_time, read_rows(path, data.source, [data.columns.timestamp]))
    return max((time for time in times if time is not None), default=0.0)


def _read_items(path: str, data: DataConfig, tally: Tally) -> Iterator[RawRow]:
    for row in read_rows(path, data.source, mapped_columns(data.columns)):
        tally.read += 1
        yield from split_items(row, data.columns)


def read_events(
    path: str,
    data: DataConfig,
    latest_timestamp_s: float,
    tally: Tally,
    dead_letters: TextIO,
    since_s: float = 0.0,
) -> Iterator[Event | Shown]:
    """The clicks of one file, and the impressions that `data.unclicked` wants, in its order; `tally` is complete when
    the iterator is exhausted.

    Each bad row becomes one line of `dead_letters`: a JSON object of source, line, reason and text.

    Raises:
      InputError: the file, rather than one of its rows, can't be read.
    """
    parser = EventParser(data, latest_timestamp_s, since_s)
    names = tuple(data.columns.feedback)
    for row in _read_items(path, data, tally):
        tally.rows += 1
        result = parser.parse(row)
        if isinstance(result, BadRow):
            tally.bad[result.reason] += 1
            text = (row.text or json.dumps(row.values, default=str))[:MAX_DEAD_LETTER_CHARACTERS]
            letter = {"source": path, "line": row.line, "reason": result.reason, "text": text}
            dead_letters.write(json.dumps(letter) + "\n")
            continue
        if isinstance(result, TooOld):
            tally.older += 1
            continue
        for name, value in zip(names, result.feedback):
            if value is not None:
                low, high = tally.ranges.get(name, (value, value))
                if not low <= value <= high or name not in tally.ranges:
                    tally.ranges[name] = (min(low, value), max(high, value))
        if isinstance(result, NotAClick):
            tally.impressions += 1
            if result.shown is not None:
                yield result.shown
            continue
        tally.clicks += 1
        if result.is_false_positive:
            feedback = dict(zip(names, result.feedback))
            for number, rule in enumerate(data.false_positive_when):
                tally.rule_hits[number] += is_true(rule, feedback)
        yield result
