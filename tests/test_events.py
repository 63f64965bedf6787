import datetime
import io
import json

import pytest

from fp_tfrs.config import DataConfig, RuleConfig
from fp_tfrs.data.events import BadRow, Event, EventParser, NotAClick, Shown, Tally, is_true, read_events
from fp_tfrs.data.sources import RawRow

LATEST_S = 2_000_000_000.0
DATA = {
    "source": {"format": "csv", "files": ("x.csv",)},
    "columns": {
        "item_id": "item",
        "timestamp": "time",
        "user_id": "user",
        "feedback": {"rating": "float", "plays": "int", "liked": "bool", "mood": "string"},
    },
}
VALUES = {"item": "a", "time": "100", "user": "u", "rating": "3.5", "plays": "2", "liked": "true", "mood": "calm"}


def parse(values=(), problem=None, latest_s=LATEST_S, **data):
    row = RawRow(1, None if problem else {**VALUES, **dict(values)}, "", problem)
    return EventParser(DataConfig(**{**DATA, **data}), latest_s).parse(row)


def test_a_good_row():
    rule = {"column": "rating", "op": "<", "value": 4}
    assert parse(false_positive_when=(rule,)) == Event(
        session_key="u",
        timestamp_s=100.0,
        item_id="a",
        is_false_positive=True,
        feedback=(3.5, 2, True, "calm"),
        user_id="u",
    )


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"item": None}, "item is missing"),
        ({"item": float("nan")}, "item is missing"),
        (
            {"item": 9_007_199_254_740_992.0},
            "item is a number that floats round; write ids as whole numbers or as text",
        ),
        ({"item": "  "}, "item is empty"),
        ({"item": "x" * 1_001}, "item is longer than 1000 bytes"),
        ({"item": "é" * 501}, "item is longer than 1000 bytes"),
        ({"item": "a\nb"}, "item has a line break"),
        ({"item": "a\u2028b"}, "item has a line break"),
        ({"item": "\ud800"}, "item is not valid Unicode"),
        ({"item": b"\xff"}, "item is not UTF-8"),
        ({"item": ["a"]}, "item is not a text"),
        ({"item": True}, "item is not a text"),
        ({"item": 1.5}, "item is not a text"),
        ({"user": ""}, "user is empty"),
        ({"time": "-1"}, "time is before 1970"),
        ({"time": "2000000001"}, "time is in the future"),
        ({"time": "inf"}, "time is too large"),
        ({"time": "nan"}, "time is NaN"),
        ({"time": "noon"}, "time is not a number"),
        ({"time": True}, "time is not a number"),
        ({"rating": ""}, "rating is empty"),
        ({"rating": None}, "rating is empty"),
        ({"rating": "NaN"}, "rating is NaN"),
        ({"rating": "1e39"}, "rating is too large"),
        ({"rating": "1_0"}, "rating is not a number"),
        ({"rating": 10**400}, "rating is not a number"),
        ({"plays": "2.5"}, "plays is not a whole number"),
        ({"plays": str(2**63)}, "plays is too large"),
        ({"liked": "maybe"}, "liked is not true or false"),
        ({"liked": 2}, "liked is not true or false"),
        ({"mood": ""}, "mood is empty"),
    ],
)
def test_bad_values(values, reason):
    assert parse(values) == BadRow(reason)


def test_a_structural_problem_is_the_reason():
    assert parse(problem="not 7 fields") == BadRow("not 7 fields")


@pytest.mark.parametrize(
    ("values", "field", "expected"),
    [
        ({"item": " a "}, "item_id", "a"),
        ({"item": 12}, "item_id", "12"),
        ({"item": 12.0}, "item_id", "12"),
        ({"item": "é" * 500}, "item_id", "é" * 500),
        ({"plays": "4.0"}, "feedback", (3.5, 4, True, "calm")),
        ({"plays": 2**63 - 1}, "feedback", (3.5, 2**63 - 1, True, "calm")),
        ({"liked": 0}, "feedback", (3.5, 2, False, "calm")),
        ({"liked": "Yes"}, "feedback", (3.5, 2, True, "calm")),
        ({"time": "0"}, "timestamp_s", 0.0),
        ({"time": datetime.datetime(1970, 1, 2)}, "timestamp_s", 86_400.0),
    ],
)
def test_good_values(values, field, expected):
    assert getattr(parse(values), field) == expected


@pytest.mark.parametrize(
    ("unit", "text", "expected_s"),
    [
        ("s", "1396437466.94", 1_396_437_466.94),
        ("ms", "1396437466940", 1_396_437_466.94),
        ("iso8601", "2014-04-02T11:17:46.94Z", 1_396_437_466.94),
        ("iso8601", "2014-04-02 11:17:46.940", 1_396_437_466.94),
        ("iso8601", "2014-04-02T13:17:46.940+02:00", 1_396_437_466.94),
        ("iso8601", "2014-04-02", 1_396_396_800.0),
    ],
)
def test_time_units(unit, text, expected_s):
    assert parse({"time": text}, time_unit=unit).timestamp_s == pytest.approx(expected_s, abs=1e-6)


@pytest.mark.parametrize("text", ["1396437466", "2014-13-01", "yesterday", "20140402", "20140402T111746Z", "2014W143"])
def test_not_iso8601(text):
    assert parse({"time": text}, time_unit="iso8601") == BadRow("time is not an ISO 8601 time")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"column": "rating", "op": "<=", "value": 3.5}, True),
        ({"column": "rating", "op": "<", "value": 3.5}, False),
        ({"column": "rating", "op": "!=", "value": 3.5}, False),
        ({"column": "mood", "op": "==", "value": "calm"}, True),
        ({"column": "liked", "op": "==", "value": False}, False),
        ({"ratio": ("rating", "plays"), "op": ">", "value": 1.7}, True),
        ({"ratio": ("rating", "zero"), "op": ">", "value": 0}, False),
        ({"ratio": ("rating", "zero"), "op": "!=", "value": 0}, False),
    ],
)
def test_rules(rule, expected):
    feedback = {"rating": 3.5, "plays": 2, "liked": True, "mood": "calm", "zero": 0}
    assert is_true(RuleConfig(**rule), feedback) is expected


def test_impressions_need_only_what_the_click_rule_reads():
    rule = {"column": "liked", "op": "==", "value": True}
    assert parse({"liked": "0", "rating": ""}, click_when=(rule,)) == NotAClick((None, None, False, None))
    assert parse({"liked": "1", "rating": ""}, click_when=(rule,)) == BadRow("rating is empty")
    assert parse({"liked": "0", "item": ""}, click_when=(rule,)) == BadRow("item is empty")


@pytest.mark.parametrize(
    ("values", "unclicked", "expected"),
    [
        ({}, {}, Shown("u", 99, "a")),
        ({"rating": "3", "mood": "calm"}, {"shown_when": "both"}, Shown("u", 99, "a")),
        ({"rating": "3", "mood": "sad"}, {"shown_when": "both"}, None),
        ({"rating": "5", "mood": "calm"}, {"shown_when": "both"}, None),
        ({"rating": "", "mood": "sad"}, {"shown_when": "both"}, BadRow("rating is empty")),
        ({"rating": ""}, {}, Shown("u", 99, "a")),  # no rule reads it
        ({"user": ""}, {}, None),  # nobody knows to whom it was shown
        ({}, {"source": "false_positives"}, None),
        ({}, None, None),
    ],
)
def test_impressions_travel_where_data_unclicked_wants_them(values, unclicked, expected):
    if unclicked and "shown_when" in unclicked:
        rules = ({"column": "rating", "op": "<", "value": 4}, {"column": "mood", "op": "==", "value": "calm"})
        unclicked = {"shown_when": rules}
    data = {
        "columns": {**DATA["columns"], "session_id": "plays"},
        "click_when": ({"column": "liked", "op": "==", "value": True},),
        "false_positive_when": ({"column": "rating", "op": "<", "value": 4},),
        "unclicked": unclicked,
        "time_unit": "ms",
    }
    found = parse({"liked": "0", "time": "99999", **values}, **data)
    assert (found if isinstance(found, BadRow) else found.shown) == expected
    assert isinstance(parse({"liked": "1"}, **data), Event)


@pytest.mark.parametrize("user", ["", None, " ", b" ", float("nan")])
def test_visitors_of_a_named_session_may_be_unknown(user):
    event = parse({"user": user}, columns={**DATA["columns"], "session_id": "mood"})
    assert (event.session_key, event.user_id) == ("calm", "")
    assert isinstance(parse({"user": user}), BadRow)  # whose session it is, nobody knows


def test_an_impression_of_several_items_is_a_row_for_each(tmp_path):
    path = tmp_path / "x.jsonl"
    lines = [
        {"shown": ["a", "b", "c"], "clicked": ["b"], "time": 1, "user": "u", "rating": 2},
        {"shown": ["a"], "clicked": None, "time": 2, "user": "u", "rating": None},
        {"shown": ["a", None, ["x"]], "clicked": ["d"], "time": 3, "user": "u", "rating": 9},
        {"shown": [], "clicked": [], "time": 4, "user": "u", "rating": 9},
        {"shown": "a b", "clicked": ["a"], "time": 5, "user": "u", "rating": 9},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = DataConfig(
        source={"format": "jsonl", "files": (str(path),)},
        columns={
            "item_id": "shown",
            "clicked_item_ids": "clicked",
            "timestamp": "time",
            "user_id": "user",
            "feedback": {"rating": "float"},
        },
        false_positive_when=({"column": "rating", "op": "<", "value": 5},),
        unclicked={},
    )
    tally, dead_letters = Tally(), io.StringIO()
    found = list(read_events(str(path), data, LATEST_S, tally, dead_letters))
    assert [(e.item_id, e.is_false_positive) for e in found if isinstance(e, Event)] == [("b", True), ("d", False)]
    shown = [(e.item_id, e.second) for e in found if isinstance(e, Shown)]
    assert shown == [("a", 1), ("c", 1), ("a", 2), ("a", 3)]
    assert (tally.read, tally.rows, tally.clicks, tally.impressions) == (5, 10, 2, 4)
    assert sorted(tally.bad) == [
        f"shown is {what}" for what in ("an empty list", "missing", "not a list", "not a text")
    ]


def test_a_file_is_tallied_and_its_bad_rows_are_dead_letters(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("item,time,user,rating,plays,liked\n" + "a,1,u,9,1,1\nb,2,u,3,1,1\nc,x,u,3,1,1\nd,4,u,-2,1,0\n")
    columns = {**DATA["columns"], "feedback": {"rating": "float", "liked": "bool"}}
    data = DataConfig(
        source={"format": "csv", "files": (str(path),)},
        columns=columns,
        click_when=({"column": "liked", "op": "==", "value": True}, {"column": "rating", "op": ">", "value": -1}),
        false_positive_when=({"column": "rating", "op": "<", "value": 5}, {"column": "rating", "op": "<", "value": 1}),
    )
    tally, dead_letters = Tally(), io.StringIO()
    events = list(read_events(str(path), data, LATEST_S, tally, dead_letters))
    assert [(event.item_id, event.is_false_positive) for event in events] == [("a", False), ("b", True)]
    assert (tally.rows, tally.clicks, tally.impressions, dict(tally.bad)) == (4, 2, 1, {"time is not a number": 1})
    assert tally.rule_hits == {0: 1, 1: 0} and tally.ranges == {"rating": (3.0, 9.0), "liked": (False, True)}
    assert json.loads(dead_letters.getvalue()) == {
        "source": str(path),
        "line": 4,
        "reason": "time is not a number",
        "text": "c,x,u,3,1,1",
    }
