"""What reads data sets of others, published or prepared, and lists of titles, as cases and checks (see `fuzzed_data.py`)."""

import functools
import io
import json
import operator
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import tensorflow as tf
from dataset_files import DUMMY_DATA, write_ebnerd, write_sequences
from fuzzed_data import Parser, as_parquet, refusing
from hostile import as_json, byte_strings, scalars, value_trees

from fp_tfrs.config import SourceConfig
from fp_tfrs.datasets import prepared, raw_files
from fp_tfrs.experiments.titles import TitlesPlan, read_titles

CLASSES = "tensorflow_datasets.core.features"


def write_prepared(data_dir: Path) -> Path:
    """Globo as TFDS leaves it in the folder of a user; returns where its files are."""
    folder = data_dir / "globo" / "1.0.0"
    folder.mkdir(parents=True)
    number = {
        "pythonClassName": f"{CLASSES}.tensor_feature.Tensor",
        "tensor": {"dtype": "int64", "encoding": "none", "shape": {}},
    }
    text = {"pythonClassName": f"{CLASSES}.text_feature.Text", "text": {}}
    features = {"user_id": text, "item_id": text, "timestamp_ms": number, "session_id": text}
    described = {"pythonClassName": f"{CLASSES}.features_dict.FeaturesDict", "featuresDict": {"features": features}}
    info = {
        "name": "globo", "version": "1.0.0", "fileFormat": "tfrecord", "disableShuffling": True,
        "moduleName": "fp_tfrs.datasets.globo",
        "splits": [{
            "name": "events", "numBytes": "99", "shardLengths": ["2"],
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        }],
    }  # fmt: skip
    for name, values in (("features", described), ("dataset_info", info), ("metadata", {"raw_files": []})):
        (folder / f"{name}.json").write_text(json.dumps(values))
    with tf.io.TFRecordWriter(str(folder / "globo-events.tfrecord-00000-of-00001")) as writer:
        for item in (b"a", "ü".encode()):
            example = tf.train.Example()
            for name, kind in features.items():
                if kind is text:
                    example.features.feature[name].bytes_list.value.append(item)
                else:
                    example.features.feature[name].int64_list.value.append(5)
            writer.write(example.SerializeToString())
    return folder


def read_prepared(data_dir: Path, config: str | None = None) -> list[dict[str, Any]]:
    """The same as a run reads it."""
    source = SourceConfig(format="tfds", name="globo", config=config, data_dir=str(data_dir))
    found = []
    for path in prepared.prepare(source):
        assert prepared.column_names(path)
        n_rows = prepared.count_rows(path)
        assert n_rows > 0
        found += prepared.read_rows(path, None)
    return found


def prepared_files(folder: Path) -> Parser:
    """A prepared data set's descriptions and records; none may lead to another folder, or to code."""
    place = write_prepared(folder)
    valid = {path.name: path.read_bytes() for path in place.iterdir()}
    (shard,) = (name for name in valid if "tfrecord" in name)
    (record, *_) = tf.data.TFRecordDataset(str(place / shard)).as_numpy_iterator()
    find = functools.partial(prepared._find_builder, SourceConfig(format="tfds", name="globo", data_dir=str(folder)))

    def check(case: tuple[str, bytes]) -> bool:
        name, content = case
        for file, good in valid.items():
            (place / file).write_bytes(good)
        if name == "record":
            with tf.io.TFRecordWriter(str(place / shard)) as writer:
                writer.write(content)
        else:
            (place / name).write_bytes(content)
        with refusing("globo", "; delete that folder to have it made anew") as said:
            if name == "metadata.json":
                prepared._made_of(find())
            rows = read_prepared(folder)
            assert all(isinstance(value, str | int | float) for row in rows for value in row.values())
        return not said

    def contents(name: str, good: bytes) -> st.SearchStrategy[bytes]:
        if name.endswith(".json"):
            return st.one_of(value_trees([json.loads(good)]).map(as_json), byte_strings([good]))
        return byte_strings([good])

    cases = [st.tuples(st.just(name), contents(name, good)) for name, good in {**valid, "record": record}.items()]
    return Parser(st.one_of(*cases), check)


# Data set, config, and the file that is changed, of those in dummy_data or of those that `dataset_files.py` writes.
TEXT_SETS = [
    ("amazon_reviews", "ratings_2014", "ratings_Movies_and_TV.csv"),
    ("amazon_reviews", "five_core", "Movies_and_TV_5.json"),
    ("diginetica", "views", "train-item-views.csv"),
    ("globo", None, "clicks/clicks_hour_000.csv"),
    ("kuairand", "pure", "log_standard_4_08_to_4_21_pure.csv"),
    ("lastfm1k", None, "userid-timestamp-artid-artname-traid-traname.tsv"),
    ("mind", "small", "MINDsmall_train/behaviors.tsv"),
    ("movielens_ratings", "1m", "ratings.dat"),
    ("movietweetings", None, "ratings.dat"),
    ("retailrocket", None, "events.csv"),
    ("spotify_mssd", None, "log_0_20180715_000000000000.csv"),
    ("thirty_music", None, "relations/sessions.idomaar"),
    ("yoochoose", "clicks", "yoochoose-clicks.dat"),
    ("yoochoose", "gru4rec", "clicks_train.tsv"),
]
TABLE_SETS = [
    ("ebnerd", "demo", "train/history.parquet"),
    ("ebnerd", "demo", "train/behaviors.parquet"),
    ("yoochoose", "sr_gnn", "train_sessions.parquet"),
    ("diginetica", "sr_gnn", "test_prefixes.parquet"),
    ("globo", None, "clicks.parquet"),
    ("kuairand", "pure", "interactions.parquet"),
]


def _read_published(folder: Path, name: str, config: str | None) -> bool:
    """All events of a folder of published files, as a data set is made of them."""
    source = SourceConfig(format="tfds", name=name, config=config, data_dir=str(folder / "prepared"))
    builder, n_events = prepared._find_builder(source), 0
    with refusing(str(folder)) as said:
        for read, part in builder.find_parts(str(folder)):
            for number, event in builder.numbered(read, part)():
                assert number >= 0
                builder.info.features.encode_example(event)
                n_events += 1
    return not said and n_events > 0


def _json_lines(content: bytes) -> list[tuple[bytes, Any]]:
    """Of each line what stands before its last JSON object, and that object."""
    starts = [line.rindex(b" {") + 1 if b" {" in line[1:] else 0 for line in content.splitlines()]
    return [(line[:start], json.loads(line[start:])) for line, start in zip(content.splitlines(), starts, strict=True)]


def published_texts(folder: Path) -> Parser:
    """Published text files of every builder, and the JSON in two of them with other values."""
    folders = [folder / f"{number}" for number in range(len(TEXT_SETS))]
    cases = []
    for number, (name, _, file) in enumerate(TEXT_SETS):
        shutil.copytree(DUMMY_DATA / name, folders[number])
        content = (folders[number] / file).read_bytes()
        cases.append(st.tuples(st.just(number), byte_strings([content])))
        if file.endswith(("_5.json", ".idomaar")):
            before, values = zip(*_json_lines(content), strict=True)
            lines = st.builds(operator.add, st.just(before[0]), value_trees(values).map(as_json))
            cases += [st.tuples(st.just(number), lines)] * 3

    def check(case: tuple[int, bytes]) -> bool:
        name, config, file = TEXT_SETS[case[0]]
        (folders[case[0]] / file).write_bytes(case[1])
        return _read_published(folders[case[0]], name, config)

    return Parser(st.one_of(*cases), check)


def _write_tables(folder: Path) -> None:
    write_ebnerd(folder)
    write_sequences(folder)
    ids = {"user_id": [1, 2], "session_id": [3, 4], "click_article_id": [5, 6], "click_timestamp": [7, 8]}
    pq.write_table(pa.table(ids), folder / "clicks.parquet")
    log = pyarrow.csv.read_csv(DUMMY_DATA / "kuairand" / "log_standard_4_08_to_4_21_pure.csv")
    pq.write_table(log, folder / "interactions.parquet")


def published_tables(folder: Path) -> Parser:
    """Published Parquet files: with broken bytes, and whole ones with other values, types and columns."""
    _write_tables(folder)
    good = {file: (folder / file).read_bytes() for _, _, file in TABLE_SETS}
    rows = [pq.read_table(io.BytesIO(good[file])).to_pylist() for _, _, file in TABLE_SETS]

    def check(case: tuple[int, bytes | list[tuple[int, Any]]]) -> bool:
        name, config, file = TABLE_SETS[case[0]]
        content = case[1]
        if not isinstance(content, bytes):
            table = pq.read_table(io.BytesIO(good[file]))
            for column, value in content:
                place = column % table.num_columns
                try:
                    values = pa.array([value] * table.num_rows)
                except (pa.ArrowException, ValueError, TypeError, OverflowError):
                    continue
                table = table.set_column(place, table.column_names[place], values)
            try:
                content = as_parquet(table)
            except (pa.ArrowException, ValueError):
                return False
        for path, whole in good.items():
            (folder / path).write_bytes(content if path == file else whole)
        with refusing(str(folder)):
            for part in raw_files.table_parts(str(folder / file), 1):
                list(raw_files.read_table(part, list(rows[case[0]][0])))
        return _read_published(folder, name, config)

    values = st.one_of(scalars, st.lists(scalars, max_size=2), st.datetimes())
    changes = st.lists(st.tuples(st.integers(0, 50), values), min_size=1, max_size=2)
    numbers = st.integers(0, len(TABLE_SETS) - 1)
    broken = numbers.flatmap(lambda number: st.tuples(st.just(number), byte_strings([good[TABLE_SETS[number][2]]])))
    return Parser(st.one_of(st.tuples(numbers, changes), broken), check)


FILMS = [{"id": "a", "name": "The Bank"}, {"id": 7, "name": " Fantômas "}, {"id": None, "name": 5}]


def titles(folder: Path) -> Parser:
    """Files of titles, as text and as tables; a report must be able to write down what comes out."""
    good = {
        "csv": "id;name\na;The Bank\n7;Fantômas\n".encode(),
        "jsonl": b"\n".join(map(as_json, FILMS)),
        "parquet": as_parquet(pa.table({"id": ["a", "7"], "name": ["The Bank", None]})),
    }

    def check(case: tuple[str, bytes]) -> bool:
        path = folder / f"titles.{case[0]}"
        path.write_bytes(case[1])
        source = {"format": case[0], "files": (str(path),), **({"separator": ";"} if case[0] == "csv" else {})}
        plan = TitlesPlan.model_validate({"source": source, "item_id": "id", "title": "name"})
        with refusing(str(path)) as said:
            found = read_titles(plan, ["a", "7", "None"])
            assert found and all(title.encode() for title in found.values())
        return not said

    trees = value_trees(FILMS[:2]).map(lambda row: ("jsonl", as_json(row) + b"\n" + as_json(FILMS[0])))
    texts = [st.tuples(st.just(kind), byte_strings([content])) for kind, content in good.items()]
    return Parser(st.one_of(trees, trees, *texts), check)


PARSERS: dict[str, Callable[[Path], Parser]] = {
    "prepared data sets": prepared_files,
    "published texts": published_texts,
    "published tables": published_tables,
    "titles": titles,
}
