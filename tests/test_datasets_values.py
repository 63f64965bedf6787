"""What builders of data sets that are nowhere at hand make of made-up files in the published form."""

import math

import pandas as pd
import pytest
from dataset_files import DUMMY_DATA

from fp_tfrs.config import SourceConfig
from fp_tfrs.datasets import prepared, raw_files
from fp_tfrs.errors import InputError


def events_of(name: str, config: str | None, data_dir, folder=None) -> list[dict]:
    builder = prepared._find_builder(SourceConfig(format="tfds", name=name, config=config, data_dir=str(data_dir)))
    return [event for read, part in builder.find_parts(str(folder or DUMMY_DATA / name)) for event in read(part)]


def ms(time: str) -> int:
    return pd.Timestamp(time, tz="UTC").value // 10**6


@pytest.mark.parametrize(
    ("config", "first"),
    [
        ("100k", {"user_id": "196", "item_id": "242", "timestamp_ms": 881_250_949_000, "rating": 3.0}),
        ("1m", {"user_id": "1", "item_id": "1193", "timestamp_ms": 978_300_760_000, "rating": 5.0}),
        ("20m", {"user_id": "1", "item_id": "2", "timestamp_ms": 1_112_486_027_000, "rating": 3.5}),
    ],
)
def test_movielens(tmp_path, config, first):
    assert events_of("movielens_ratings", config, tmp_path)[0] == first


@pytest.mark.parametrize("part_bytes", [1 << 20, 40])  # 40: the next play is often in another part
def test_lastfm_measures_the_time_to_the_next_play(tmp_path, monkeypatch, part_bytes):
    monkeypatch.setattr(raw_files.text_parts, "__defaults__", ((), part_bytes))
    last, second, first, other = events_of("lastfm1k", None, tmp_path)
    assert (last["item_id"], last["timestamp_ms"]) == ("t-1", ms("2009-05-04 23:10"))
    assert second["item_id"] == 'The "Quoted" Ones – An "open quote' and first["item_id"] == "No Id – Third, with comma"
    assert (second["gap_to_next_s"], first["gap_to_next_s"]) == (15.0, 285.0)
    assert math.isnan(last["gap_to_next_s"]) and math.isnan(other["gap_to_next_s"])


def test_mind(tmp_path):
    events = events_of("mind", "small", tmp_path)
    assert [(event["user_id"], event["item_id"], event["is_click"]) for event in events] == [
        ("U13", "N556", False),
        ("U13", "N357", True),
        ("U91", "N357", False),
        ("U80", "N28", True),
    ]
    assert [event["timestamp_ms"] for event in events[1:3]] == [ms("2019-11-11 09:05:58"), ms("2019-11-12 18:11:30")]


def test_retailrocket(tmp_path):
    events = events_of("retailrocket", None, tmp_path)
    assert [event["event"] for event in events] == ["view", "addtocart", "transaction"]
    assert (events[0]["user_id"], events[0]["item_id"], events[0]["timestamp_ms"]) == (
        "257597",
        "355908",
        1433221332117,
    )


def test_spotify(tmp_path):
    first, second, other = events_of("spotify_mssd", None, tmp_path)
    assert (
        first["timestamp_ms"] == ms("2018-07-15 16:00:01") and second["timestamp_ms"] - first["timestamp_ms"] == 1_000
    )
    assert [event["skip_2"] for event in (first, second, other)] == [False, True, True]
    assert [event["skip_1"] for event in (first, second, other)] == [False, False, True]
    assert (second["not_skipped"], second["context_switch"], other["premium"]) == (False, True, False)
    assert (second["hist_user_behavior_reason_end"], second["item_id"]) == ("fwdbtn", "t_2")


@pytest.mark.parametrize(
    ("config", "second"),
    [
        ("ratings_2014", {"user_id": "A3R5OBKS7OM2IS", "item_id": "0000143529", "timestamp_ms": 1380672000000}),
        ("ratings_2018", {"user_id": "A2VHSG6TZHU1OB", "item_id": "0001527665", "timestamp_ms": 1361145600000}),
        ("five_core", {"user_id": "A1", "item_id": "B2", "timestamp_ms": 1394496000000}),
    ],
)
def test_amazon(tmp_path, config, second):
    assert events_of("amazon_reviews", config, tmp_path)[1] == second | {"rating": 1.0}


def test_an_amazon_folder_without_the_config_s_files_is_refused(tmp_path):
    (tmp_path / "ratings_Books.csv").write_text("u,i,5.0,1\n")
    with pytest.raises(InputError, match="no csv file of config ratings_2018"):
        events_of("amazon_reviews", "ratings_2018", tmp_path, tmp_path)
    with pytest.raises(InputError, match=r"has no \*_5.json"):
        events_of("amazon_reviews", "five_core", tmp_path, tmp_path)


def test_thirty_music(tmp_path):
    first, second, other = events_of("thirty_music", None, tmp_path)
    assert first == {
        "user_id": "44361",
        "session_id": "287144",
        "item_id": "4698874",
        "timestamp_ms": 1_390_231_051_000,
        "playtime": 20.0,
        "playratio": 0.08,
        "action": "skip",
    }
    assert second["timestamp_ms"] == first["timestamp_ms"] + 20_000 and second["playratio"] == 1.0
    assert other["user_id"] == "44362" and math.isnan(other["playratio"])


def test_a_session_without_a_user_is_broken_not_skipped(tmp_path):
    (tmp_path / "sessions.idomaar").write_text('event.session\t1\t2\t{} {"subjects":[],"objects":[]}\n')
    with pytest.raises(ValueError, match="session 1 has no user"):
        events_of("thirty_music", None, tmp_path, tmp_path)


def test_an_id_that_is_missing_is_broken_and_no_item_called_none(tmp_path):
    log = pd.DataFrame({"user_id": [1], "session_id": [2], "click_article_id": [None], "click_timestamp": [3]})
    log.to_parquet(tmp_path / "clicks.parquet")
    with pytest.raises(ValueError, match="an id is missing"):
        events_of("globo", None, tmp_path, tmp_path)
