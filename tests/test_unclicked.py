"""Unclicked items against their definition, event by event, and their way through Beam into the examples."""

import itertools
import json
import operator
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fp_tfrs.config import DataConfig, HistoryConfig, SessionsConfig, UnclickedConfig
from fp_tfrs.data.examples import decode_session, encode_session, read_sessions
from fp_tfrs.data.manifest import format_summary
from fp_tfrs.data.preprocess import preprocess
from fp_tfrs.data.sessions import Session, cut_sessions
from fp_tfrs.data.unclicked import add_unclicked
from fp_tfrs.errors import InputError

DAY_S = 86_400
LATEST_S = 1_800_000_000.0


def find_unclicked(second, seen, unclicked):
    """By definition: everything that was seen is looked at anew for each event."""
    counts = unclicked.source == "impressions"
    clicked = {item for time, item, is_clicked in seen if is_clicked and time < second}
    shown = {}
    for time, item, is_clicked in seen:
        if not is_clicked and second - unclicked.window_days * DAY_S <= time < second:
            shown.setdefault(item, set()).add(time)
    least = unclicked.min_impressions if counts else 1
    listed = [item for item, times in shown.items() if len(times) >= least and item not in clicked]
    return tuple(sorted(sorted(listed), key=lambda item: max(shown[item]), reverse=True)[: unclicked.max_items])


def all_lists(sessions):
    return {s.session_id: [s.unclicked_before(event) for event in range(len(s.item_id))] for s in sessions}


def draw_log(rng):
    """Sessions of a user, which may overlap and share seconds, what the user saw (their clicks, and more), and limits."""
    sessions = []
    for number in range(rng.randint(1, 4)):
        start_s = rng.randrange(30)
        times = sorted(start_s + rng.randrange(16) for _ in range(rng.randint(1, 6)))
        items = tuple(rng.choice("abcdef") for _ in times)
        sessions.append(Session(f"s{number}", items, (False,) * len(times), "u", tuple(times)))
    clicks = [(time, item, True) for s in sessions for time, item in zip(s.timestamp_s, s.item_id)]
    seen = [(rng.randrange(45), rng.choice("abcdef"), rng.random() < 0.1) for _ in range(rng.randrange(50))]
    unclicked = UnclickedConfig(
        source=rng.choice(["impressions", "impressions", "false_positives"]),
        window_days=rng.choice([2, 7, 15.5, 1000]) / DAY_S,
        min_impressions=rng.randint(1, 3),
        max_items=rng.randint(1, 5),
    )
    return sessions, clicks * (rng.random() < 0.5) + seen, unclicked


def test_each_event_has_what_the_definition_says_whatever_the_order_and_repetition():
    lengths = set()
    for seed in range(500):
        rng = random.Random(seed)
        sessions, seen, unclicked = draw_log(rng)
        repeated = rng.sample(seen, len(seen)) + seen[: rng.randrange(9)]
        found = list(add_unclicked(rng.sample(sessions, len(sessions)), repeated, unclicked))
        expected = {s.session_id: [find_unclicked(time, seen, unclicked) for time in s.timestamp_s] for s in sessions}
        assert all_lists(found) == expected, seed
        assert all(0 <= first < end <= len(s.item_id) for s in found for _, first, end in s.unclicked), seed
        lengths |= {len(items) for lists in expected.values() for items in lists}
    assert lengths == {0, 1, 2, 3, 4, 5}


def test_what_is_seen_from_an_events_second_on_does_not_change_its_list():
    """Causal: everything at or after a second is replaced, and the lists up to it stay."""
    for seed in range(500):
        rng = random.Random(seed)
        sessions, seen, unclicked = draw_log(rng)
        second = rng.randrange(45)
        later = [(rng.randrange(second, 60), rng.choice("abcdef"), rng.random() < 0.3) for _ in range(20)]
        changed = [s for s in seen if s[0] < second] + later
        before, after = (all_lists(add_unclicked(sessions, s, unclicked)) for s in (seen, changed))
        for s in sessions:
            n_early = sum(time <= second for time in s.timestamp_s)
            assert before[s.session_id][:n_early] == after[s.session_id][:n_early], seed


def test_the_label_may_be_listed_and_a_click_of_the_same_second_is_not_known_yet():
    session = Session("s", ("a", "b", "c"), (False,) * 3, "u", (10, 20, 20))
    seen = [(1, "a", False), (1, "b", False), (2, "b", False), (10, "a", True), (20, "b", True), (20, "c", False)]
    (found,) = add_unclicked([session], seen, UnclickedConfig(min_impressions=1))
    assert all_lists([found])["s"] == [("b", "a"), ("b",), ("b",)]
    assert found.unclicked == (("b", 0, 3), ("a", 0, 1))  # one entry for as long as nothing changes


def test_an_item_shown_twice_in_one_second_was_shown_once():
    session = Session("s", ("x",), (False,), "u", (10,))
    (found,) = add_unclicked(
        [session], [(1, "a", False), (1, "a", False), (1, "b", False), (2, "b", False)], UnclickedConfig()
    )
    assert found.unclicked == (("b", 0, 1),)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Six days of impressions and clicks of a few users, times in ms; a tenth of the sessions have no user."""
    rng = random.Random(7)
    rows = []
    for number in range(260):
        user = rng.choice(["", *(f"u{k}" for k in range(9))])
        time_ms = 1_700_000_000_000 + rng.randrange(6 * DAY_S * 1000)
        for _ in range(rng.randrange(1, 6)):
            slate = rng.sample(range(25), 4)
            for place, item in enumerate(slate):
                row = {"session": f"s{number:03d}", "user": user, "item": f"i{item}", "time": time_ms, "place": place}
                is_click = place == 1 or rng.random() < 0.05
                rows.append(row | {"click": is_click, "dwell": rng.randrange(30) if is_click else None})
            time_ms += rng.randrange(700_000)
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rng.sample(rows, len(rows)) + rows[:50]))
    return path, rows


LENGTHS = SessionsConfig(gap_s=3600, max_length=4)
SHOWN_WHEN = ({"column": "place", "op": "<", "value": 3},)


def configure(path, columns, **data):
    feedback = {"click": "bool", "dwell": "float", "place": "int"}
    return DataConfig(
        source={"format": "jsonl", "files": (str(path),)},
        columns={"item_id": "item", "timestamp": "time", "user_id": "user", "feedback": feedback} | columns,
        time_unit="ms",
        click_when=({"column": "click", "op": "==", "value": True},),
        false_positive_when=({"column": "dwell", "op": "<", "value": 10},),
        sessions=LENGTHS,
        max_bad_share=0.5,
        **data,
    )


def read_all(data, folder):
    result = preprocess(data, 1, str(folder / "out"), str(folder / "dead.jsonl"), LATEST_S)
    return result, [s for split in ("train", "valid", "test") for s in read_sessions(str(folder / "out"), split)]


@pytest.mark.parametrize(
    ("key", "unclicked"),
    [
        ("session", {"window_days": 2, "max_items": 7, "shown_when": SHOWN_WHEN}),
        ("user", {"window_days": 2, "min_impressions": 1}),
        ("user", {"source": "false_positives"}),
    ],
)
def test_examples_carry_the_lists_whatever_the_log_is_keyed_by(key, unclicked, log, tmp_path):
    path, rows = log
    unclicked = UnclickedConfig(**unclicked)
    columns = {"session_id": "session"} if key == "session" else {}
    data = configure(path, columns, unclicked=unclicked, history=HistoryConfig() if key == "session" else None)
    result, written = read_all(data, tmp_path)
    seen = {}
    for row in rows:
        if unclicked.source == "false_positives" and not row["click"]:
            continue
        is_clicked = row["click"] and (unclicked.source == "impressions" or row["dwell"] >= 10)
        if row["user"] and (row["click"] or row["place"] < 3 or not unclicked.shown_when):
            seen.setdefault(row["user"], []).append((row["time"] // 1000, row["item"], is_clicked))
    expected = {
        s.session_id: [find_unclicked(time, seen.get(s.user_id, []), unclicked) for time in s.timestamp_s]
        for s in cut_all(rows, key)
    }
    assert all_lists(written) == expected
    lists = [items for lists in expected.values() for items in lists]
    assert len(set(map(len, lists))) > 4 and any(s.history_item_id for s in written) == (key == "session")
    assert sum(counts.events_with_unclicked for counts in result.splits.values()) == sum(map(bool, lists))
    assert sum("clicks with unclicked items before them" in line for line in format_summary(result)) == 3


def cut_all(rows, key):
    clicks = sorted((row for row in rows if row["click"] and row[key]), key=operator.itemgetter(key))
    for name, group in itertools.groupby(clicks, operator.itemgetter(key)):
        events = [(r["time"] / 1000, r["item"], r["dwell"] < 10, (), r["user"]) for r in group]
        yield from cut_sessions(name, events, LENGTHS, has_session_id=key == "session").sessions


def test_a_row_an_impression_with_lists_is_the_same_log_as_a_row_an_item(tmp_path):
    rng, items, impressions = random.Random(5), [], []
    for number in range(900):
        user, slate = f"u{rng.randrange(30)}", [f"i{k}" for k in rng.sample(range(25), rng.randrange(1, 6))]
        head = {"user": user, "time": 1_700_000_000_000 + 400_000 * number, "dwell": rng.randrange(30), "place": 0}
        clicked = [item for item in slate if rng.random() < 0.4]
        impressions.append({"shown": slate, "clicked": clicked} | head)
        items += [{"item": item, "click": item in clicked} | head for item in slate]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in items))
    pq.write_table(pa.Table.from_pylist(impressions), tmp_path / "impressions.parquet")
    one = configure(tmp_path / "items.jsonl", {}, unclicked=UnclickedConfig())
    values = one.model_dump(exclude_defaults=True)
    values["source"] = {"format": "parquet", "files": (str(tmp_path / "impressions.parquet"),)}
    values["columns"] |= {"item_id": "shown", "clicked_item_ids": "clicked", "feedback": {"dwell": "float"}}
    several = DataConfig.model_validate({**values, "click_when": (), "unclicked": {}})
    (result, sessions), (other, others) = (
        read_all(data, tmp_path / name) for name, data in (("one", one), ("several", several))
    )
    assert sessions and all_lists(sessions) == all_lists(others)
    assert (result.rows, result.clicks, result.impressions) == (other.rows, other.clicks, other.impressions)
    assert any(items for lists in all_lists(sessions).values() for items in lists)


def test_who_logs_in_on_the_way_has_clicked_what_the_session_has(tmp_path):
    """The visit's impressions and clicks from the log-in on are the user's, and its clicks of before are, too."""
    rows = []
    for number in range(9):
        user, events = (
            f"u{number}",
            [("", "a", True), ("u", "a", False), ("u", "b", False), ("u", "c", True), ("", "d", True)],
        )
        for step, (who, item, is_click) in enumerate(events):
            row = {"session": f"s{number}", "user": who and user, "item": item, "click": is_click, "place": 0}
            rows.append(row | {"time": 1_700_000_000_000 + DAY_S * 1000 * number + step * 1000, "dwell": step * 9})
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    unclicked = UnclickedConfig(min_impressions=1)
    _, written = read_all(configure(path, {"session_id": "session"}, unclicked=unclicked), tmp_path)
    assert {session.user_id for session in written} == {f"u{number}" for number in range(9)}
    assert all(lists == [(), ("b",), ("b",)] for lists in all_lists(written).values())


def test_a_log_in_which_nothing_counts_as_shown_stops_the_run(log, tmp_path):
    unclicked = UnclickedConfig(shown_when=({"column": "place", "op": ">", "value": 9},))
    with pytest.raises(InputError, match=r"no click has an unclicked item .*shown_when"):
        read_all(configure(log[0], {}, unclicked=unclicked), tmp_path)


def test_entries_survive_their_way_to_an_example_which_has_none_without_data_unclicked():
    session = Session("s", ("a", "b"), (False, True), "u", (1, 2), unclicked=(("ü", 0, 2), ("b", 0, 1), ("b", 1, 2)))
    for one in (session, Session("s", ("a",), (True,), "u", (1,))):
        assert decode_session(encode_session(one, {}, has_unclicked=True)) == one
    assert b"unclicked" not in encode_session(session, {})
    assert b"unclicked_first" in encode_session(one, {}, has_unclicked=True)  # also where the lists are empty
