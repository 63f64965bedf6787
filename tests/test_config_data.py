"""Sections of `data` that need others: what is refused, and what a measure's columns are."""

import pydantic
import pytest

from fp_tfrs.config import DataConfig, dump, parse

COLUMNS = {"session_id": "session", "feedback": {"dwell_s": "float", "stars": "int", "skip": "bool", "mood": "string"}}


def make(**data) -> DataConfig:
    return DataConfig(**{"source": {"format": "csv", "files": ("log.csv",)}, "columns": COLUMNS, **data})


def refuse(message, **data):
    with pytest.raises(pydantic.ValidationError, match=message):
        make(**data)


def test_histories_need_users():
    refuse("history needs columns.user_id", history={})
    data = make(history={}, columns=COLUMNS | {"user_id": "user"})
    assert (data.history.max_items, data.history.window_days) == (20, 7)
    assert make().history is None and make().satisfaction is None


@pytest.mark.parametrize("measure", [{"column": "dwell_s"}, {"ratio": ("stars", "dwell_s")}])
def test_satisfaction_is_a_numeric_column_or_a_ratio_of_two(measure):
    data = make(satisfaction=measure)
    assert parse(DataConfig, dump(data)) == data
    assert data.satisfaction.columns == measure.get("ratio", ("dwell_s",))


def test_satisfaction_that_is_no_number_or_no_column_is_refused_by_name():
    refuse("satisfaction uses column 'dwel', which columns.feedback does not list", satisfaction={"column": "dwel"})
    refuse("'skip' is declared bool; declare it float or int", satisfaction={"column": "skip"})
    refuse("'mood' is declared string", satisfaction={"ratio": ("dwell_s", "mood")})
    refuse("give either column or ratio", satisfaction={})
    refuse("give either column or ratio", satisfaction={"column": "stars", "ratio": ("stars", "dwell_s")})


@pytest.mark.parametrize(
    ("message", "source"),
    [
        ("format: tfds needs name and no files", {"format": "tfds"}),
        ("format: tfds needs name and no files", {"format": "tfds", "name": "globo", "files": ("a",)}),
        ("format: simulated needs simulation and no files", {"format": "simulated"}),
        ("simulation goes with format: simulated only", {"format": "tfds", "name": "globo", "simulation": {}}),
        ("manual_dir goes with format: tfds only", {"format": "csv", "files": ("a",), "manual_dir": "b"}),
        ("config goes with format: tfds only", {"format": "simulated", "simulation": {}, "config": "b"}),
        ("separator and header go with format: csv only", {"format": "parquet", "files": ("a",), "separator": ";"}),
        ("separator and header go with format: csv only", {"format": "jsonl", "files": ("a",), "header": False}),
        (
            "column_names has 'item_id' 2 times; name each column once",
            {"format": "csv", "files": ("a",), "header": False, "column_names": ("s", "item_id", "t", "item_id")},
        ),
    ],
)
def test_a_source_takes_the_fields_of_its_format(message, source):
    refuse(message, source=source)


def test_a_data_set_by_name_is_a_source():
    source = {"format": "tfds", "name": "kuairand", "config": "pure", "manual_dir": "$DATA/k", "data_dir": "~/tfds"}
    data = make(source=source)
    assert parse(DataConfig, dump(data)) == data and data.source.config == "pure"
