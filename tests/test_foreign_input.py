"""What fuzzing has found: input that once ended in a traceback, and now costs its own row or is refused in one sentence."""

import gzip
import io
import json
import urllib.request

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from fuzzed_data_sets import read_prepared, write_prepared
from tried_model import write_export

from fp_tfrs import schema, storage
from fp_tfrs.config import DataConfig, SourceConfig
from fp_tfrs.data import examples, manifest, session_table, sources
from fp_tfrs.data.events import Tally, read_events
from fp_tfrs.data.preprocess import preprocess
from fp_tfrs.data.sources import RawRow
from fp_tfrs.data.vocabulary import read_vocabulary
from fp_tfrs.datasets import prepared, raw_files
from fp_tfrs.demo import explaining, samples
from fp_tfrs.errors import InputError, RunError
from fp_tfrs.experiments.ledger import Ledger, Training
from fp_tfrs.experiments.plan import Experiment
from fp_tfrs.experiments.titles import TitlesPlan, read_titles
from fp_tfrs.serving import client, expectations, metadata, push, rollback, session_files
from fp_tfrs.serving.request import Request
from fp_tfrs.serving.saved_model import SavedModel
from pipeline import cli

LOG = DataConfig.model_validate(
    {
        "source": {"format": "parquet", "files": ["x"]},
        "columns": {"item_id": "item", "timestamp": "time", "user_id": "user"},
    }
)
FAR = pa.array([10**8, 2**62, 3 * 10**8, 4 * 10**8], pa.int64()).view(
    pa.timestamp("us")
)  # the second is in no calendar
NO_TEXT = pa.array([b"a", b"b", b"\xff", b"d"], pa.binary()).view(pa.string())


def test_a_parquet_value_that_python_cannot_hold_costs_its_row_only(tmp_path):
    path = str(tmp_path / "log.parquet")
    pq.write_table(pa.table({"item": NO_TEXT, "time": FAR, "user": ["u"] * 4}), path)
    tally, letters = Tally(), io.StringIO()
    events = list(read_events(path, LOG, 2e9, tally, letters))
    assert [(event.item_id, event.timestamp_s) for event in events] == [("a", 100.0), ("d", 400.0)]
    assert dict(tally.bad) == {"time has a value that cannot be read": 1, "item has a value that cannot be read": 1}
    assert [json.loads(line)["line"] for line in letters.getvalue().splitlines()] == [2, 3]
    assert sources.count_rows(path, LOG.source) == 4
    pq.write_table(pa.table({"session_id": NO_TEXT, "item_id": [["a"]] * 4}), path)
    found = [
        session_files.parse(row) for part in session_files.divide([path], 9) for row in session_files.read_part(part)
    ]
    assert [getattr(row, "reason", "") for row in found] == ["", "", "session_id has a value that cannot be read", ""]
    parts = raw_files.table_parts(path)
    with pytest.raises(InputError, match="session_id has a value that can't be read; fetch it again"):
        list(raw_files.read_table(parts[0], ["session_id"]))


def test_a_broken_parquet_file_is_named_when_its_rows_are_counted(tmp_path):
    (tmp_path / "log.parquet").write_bytes(b"PAR1 broken PAR1")
    with pytest.raises(InputError, match=r"log\.parquet can't be read"):
        sources.count_rows(str(tmp_path / "log.parquet"), LOG.source)


def test_numbers_that_are_none_and_broken_gzip_in_files_of_sessions(tmp_path):
    row = {
        "session_id": "s",
        "item_id": ["a"],
        "unclicked_item_id": ["x"],
        "unclicked_first": ["0"],
        "unclicked_end": [1],
    }
    assert (
        session_files.parse(RawRow(1, row, "", None)).reason
        == "unclicked_end has what is no number for an unclicked item"
    )
    packed = bytearray(gzip.compress(b'{"session_id": "s", "item_id": ["a"]}\n' * 9))
    packed[15] ^= 255
    (tmp_path / "sessions.jsonl.gz").write_bytes(packed)
    with pytest.raises(InputError, match=r"sessions\.jsonl\.gz can't be read"):
        list(session_files.read_part(session_files.divide([str(tmp_path / "sessions.jsonl.gz")], 9)[0]))


def checksum(content):
    """TFRecord's: CRC-32C, bit by bit, rotated and shifted."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 * (crc & 1))
    crc ^= 0xFFFFFFFF
    return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def test_a_record_that_claims_more_than_there_is_does_not_kill_the_process(tmp_path):
    record = Request(["a"], [0]).to_example()
    length = len(record).to_bytes(8, "little")
    good = length + checksum(length) + record + checksum(record)
    (tmp_path / "good").write_bytes(good * 2)
    assert len(list(session_files.read_part(session_files.Part(0, str(tmp_path / "good"), 0, None)))) == 2
    lie = (2**40).to_bytes(8, "little")
    for content in (good + lie + checksum(lie) + b"abc", good[:-1], good + b"abc"):
        (tmp_path / "lie").write_bytes(content)
        with pytest.raises(InputError, match="lie can't be read: .* a record ends after the file does"):
            list(session_files.read_part(session_files.Part(0, str(tmp_path / "lie"), 0, None)))


@pytest.mark.parametrize("line", [b"\xff,b\n1,2\n", b'a,"' + b"b" * 200_000 + b'"\n1,2\n'])
def test_a_published_file_whose_first_line_is_no_text(tmp_path, line):
    (tmp_path / "log.csv").write_bytes(line)
    with pytest.raises(InputError, match=r"log\.csv: its first line is no text"):
        raw_files.text_parts(str(tmp_path / "log.csv"), ",")


def test_a_parquet_file_with_a_column_whose_name_is_no_text_is_refused(tmp_path):
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table({"nämé": [1]}), path)
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xe9x"))
    with pytest.raises(InputError, match=r"log\.parquet.*UTF-8"):
        sources.check_source(LOG.model_copy(update={"source": SourceConfig(format="parquet", files=(str(path),))}))


@pytest.mark.parametrize(("place", "content"), [(6, b"\x01"), (8, b"\x63"), (4, b"\x74")])
def test_arrays_that_are_packed_in_a_way_of_others_are_damaged(tmp_path, place, content):
    """Encrypted, by another compression, and of a later version of zip; in the file's own list of what it holds."""
    path = tmp_path / "a.npz"
    np.savez(path, ranks=np.arange(3))
    whole = path.read_bytes()
    at = whole.index(b"PK\x01\x02") + 2 + place
    path.write_bytes(whole[:at] + content + whole[at + 1 :])
    with pytest.raises(OSError, match=r"a\.npz is damaged"):
        storage.read_arrays(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"asin": None}, "item_id has the value 'None'"),
        ({"asin": "\ud800"}, "surrogates not allowed"),
        ({"overall": None}, "must be a string or a"),
        ({"overall": [4]}, "must be a string or a"),
        ({"unixReviewTime": 10**30}, "timestamp_ms has the value '10000"),
        ({"unixReviewTime": float("inf")}, "cannot convert float infinity"),
        (None, "indices must be integers"),
    ],
)
def test_a_published_value_that_its_feature_does_not_take_is_named(tmp_path, change, said):
    review = {"reviewerID": "A1", "asin": "B1", "overall": 4.0, "unixReviewTime": 1_394_496_000}
    changed = "[]" if change is None else json.dumps(review | change)
    (tmp_path / "Films_5.json").write_text(f"{json.dumps(review)}\n{changed}\n")
    source = SourceConfig(format="tfds", name="amazon_reviews", config="five_core", data_dir=str(tmp_path / "made"))
    builder = prepared._find_builder(source)
    ((read, part),) = builder.find_parts(str(tmp_path))
    with pytest.raises(InputError, match=rf"Films_5\.json: event 2 of .* is broken: .*{said}.*; fetch it again"):
        list(builder.numbered(read, part)())


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("metadata.json", b"7", None),  # what it was made of is unknown then
        ("features.json", b"[" * 9_999, "features.json can't be read"),
        ("features.json", b"true", "features.json can't be read"),
        ("dataset_info.json", b"\xff", "codec can't decode"),
        ("dataset_info.json", b'{"name": "globo", "version": "2.0.0"}', "do not match"),
        ("globo-events.tfrecord-00000-of-00001", None, "a record of globo-events.* ends after the file does"),
        ("globo-events.tfrecord-00000-of-00001", b"no records at all", "ends after the file does"),
        ("globo-events.tfrecord-00000-of-00001", bytes(96), "can't be read: .*corrupted record"),
    ],
)
def test_a_prepared_data_set_that_is_damaged_is_refused(tmp_path, file, content, said):
    path = write_prepared(tmp_path) / file
    if content is None:
        lie = (2**40).to_bytes(8, "little")
        content = path.read_bytes() + lie + checksum(lie) + b"abc"
    path.write_bytes(content)
    if said is None:
        assert len(read_prepared(tmp_path)) == 2
        return
    with pytest.raises(InputError, match=rf"(?s)globo.* can't be used: .*{said}.*; delete that folder"):
        read_prepared(tmp_path)


def test_half_a_character_of_a_title_is_replaced(tmp_path):
    (tmp_path / "films.jsonl").write_text(json.dumps({"id": "a", "name": "The\ud800 Bank"}))
    source = {"format": "jsonl", "files": [str(tmp_path / "films.jsonl")]}
    plan = TitlesPlan.model_validate({"source": source, "item_id": "id", "title": "name"})
    assert read_titles(plan, ["a"]) == {"a": "The? Bank"}


@pytest.mark.parametrize("change", [{"run": None}, {"other": 1}, {"seconds": "1"}, {"code": "\ud800"}, {"val_mrr": []}])
def test_a_whole_line_of_a_ledger_that_is_no_training_is_named(tmp_path, change):
    ledger = Ledger(str(tmp_path))
    ledger.add("a1", Training(0.5, 3, 1.0, "c0de"))
    line = {"run": "a2", "val_mrr": 0.5, "best_epoch": 3, "seconds": 1.0, "code": "c0de"}
    for text in (json.dumps(line | change), "[]", "7", "9" * 5_000, "[" * 99_999):
        with open(tmp_path / "trainings.jsonl", "a") as file:
            file.write(f"{text}\n")
        with pytest.raises(RunError, match=r"trainings\.jsonl: line 2 is no training; delete the line"):
            ledger.trainings()


@pytest.mark.parametrize("history", ["7", "[7]", "{", "[" * 99_999])
def test_ranks_of_something_else_are_named(tmp_path, history):
    ledger = Ledger(str(tmp_path))
    (tmp_path / "ranks").mkdir()
    for arrays in ({"ranks": [1], "history": history}, {"history": "[]"}, {"ranks": ["x"], "history": "[]"}):
        np.savez(tmp_path / "ranks" / "a1.npz", **arrays)
        with pytest.raises(RunError, match=r"a1\.npz holds no judged run; delete it and start again"):
            ledger.judged("a1")


def write_records(path, *records):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for record in records:
            writer.write(record)
    return str(path)


def example(**features):
    made = tf.train.Example()
    for name, values in features.items():
        kind = made.features.feature[name]
        (kind.bytes_list if isinstance(values[0], bytes) else kind.int64_list).value.extend(values)
    return made.SerializeToString()


RAW = {
    "session_id": [b"s"],
    "user_id": [b""],
    "item_id": [b"a", b"b"],
    "timestamp_s": [1, 2],
    "is_false_positive": [0, 1],
}


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (b"no example", "a record is no tf.train.Example"),
        (example(item_id=[b"a"]), "not a value for each event"),
        (example(**RAW | {"is_false_positive": [1]}), "not a value for each event"),
        (example(**RAW | {"item_id": [b"a", b"\xff"]}), "invalid start byte"),
        (None, "incorrect header"),
    ],
)
def test_a_shard_of_raw_examples_that_holds_something_else_is_named(tmp_path, monkeypatch, record, said):
    shard = manifest.Shard(split="test", path="Split-test/sessions-0-of-1.gz", records=1, n_bytes=1, sha256="")
    monkeypatch.setattr(manifest, "read", lambda folder: manifest.Manifest.model_construct(shards=(shard,)))
    path = write_records(tmp_path / shard.path, example(**RAW))
    assert [session.item_id for session in examples.read_sessions(str(tmp_path), "test")] == [("a", "b")]
    if record is None:
        (tmp_path / shard.path).write_bytes(b"no gzip at all")
    else:
        write_records(tmp_path / shard.path, record)
    with pytest.raises(InputError, match=f"{path} cannot be read .*{said}"):
        examples.read_sessions(str(tmp_path), "test")


TRANSFORMED = {
    "session_id": [b"s"],
    "user_id": [b"u"],
    "item_index": [2, 1, 3],
    "is_false_positive": [0, 1, 0],
    "timestamp_s": [1, 2, 3],
    "unclicked_index": [2],
    "unclicked_first": [0],
    "unclicked_end": [3],
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"item_index": [2, -5, 3]}, "item_index has the value -5, which is none"),
        ({"item_index": [2, 2**40, 3]}, f"item_index has the value {2**40}, which is none"),
        ({"unclicked_index": [0]}, "unclicked_index has the value 0, which is none"),
        ({"unclicked_end": [4]}, "beyond its session's events"),
        ({"unclicked_first": [-1]}, "unclicked_first has the value -1"),
        (None, "transformed examples cannot be read"),
    ],
)
def test_transformed_examples_with_impossible_values_are_refused(tmp_path, change, said):
    assert session_table.read_sessions([write_records(tmp_path / "a", example(**TRANSFORMED))], has_unclicked=True)
    path = write_records(tmp_path / "b", b"no example" if change is None else example(**TRANSFORMED | change))
    with pytest.raises(InputError, match=said):
        session_table.read_sessions([path], has_unclicked=True)


def test_what_a_version_says_of_itself_is_read_or_refused(tmp_path):
    for version in ("1", "2"):
        (tmp_path / version / metadata.FOLDER).mkdir(parents=True)
        (tmp_path / version / push.MARKER).touch()
    for text in ("[]", "{", '{"rollback": {"version": "../../x", "instead_of": 1}}', '{"rollback": 7}', "[" * 99_999):
        (tmp_path / "2" / metadata.LINEAGE_FILE).write_text(text)
        with pytest.raises(InputError, match=r"2/assets.extra/lineage\.json is none that fp-tfrs has written"):
            rollback.roll_back(str(tmp_path))


@pytest.mark.parametrize("text", ["[7]", "[{}]", '[{"request": [1, 2]}]', "{", "[" * 99_999])
def test_a_page_does_without_what_beside_an_export_cannot_be_read(tmp_path, text):
    (tmp_path / metadata.FOLDER).mkdir()
    for name in (metadata.EXPORT_FILE, expectations.FILE_NAME):
        (tmp_path / name).write_text(text)
    assert samples.from_export(str(tmp_path)) == []
    assert explaining._read_kind(str(tmp_path)) == ""


def test_a_model_refuses_bytes_that_are_no_example_and_no_text(tmp_path):
    model = SavedModel(write_export(tmp_path / "m"))
    with pytest.raises(tf.errors.OpError, match="Could not parse example"):
        model.recommend_examples([b"\x0b\xbe\x02\xff\xfe"])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"[" * 99_999, "answers otherwise than TensorFlow Serving does"),
        (b'{"outputs": {"item_id": [["a"]], "score": [[1' + b"0" * 400 + b"]]}}", "OverflowError"),
        (b'{"outputs": {"item_id": [[7]], "score": [[1]]}}', "[7] are no ids"),
    ],
)
def test_a_server_that_answers_anything(monkeypatch, body, said):
    inputs = {"inputs": {schema.ITEM_ID: {}}}
    described = json.dumps({"metadata": {"signature_def": {"signature_def": {"recommend": inputs}}}}).encode()
    bodies = [described, body]
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(bodies.pop(0)))
    model = client.RestClient("http://h:1", "m", 1.0)
    with pytest.raises(RunError) as refused:
        model.recommend(Request(["a"], [0]))
    assert said in str(refused.value)


@pytest.mark.parametrize("url", [f"http://{'ü' * 80}:8501", "http://.example:8501"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(InputError, match="is no address .*; mend --url"):
        client.RestClient(url, "m", 1.0)


def test_arguments_of_other_bytes_are_refused(tmp_path, capsys):
    model = write_export(tmp_path / "m")
    assert cli.main(["recommend", "--model", model, "--items", "item_01,\udcff"]) == 2
    assert capsys.readouterr().err == "fp-tfrs: --items 'item_01,\\udcff' is not UTF-8, as ids are\n"


@pytest.mark.parametrize("name", ["../../x", "/tmp/x", "", "a/b", "A", "..", "films\n"])
def test_the_data_sets_of_an_experiment_name_folders_inside_its_own(name):
    sections = {"towers": {"narm": {}}, "methods": {"vanilla": {}}}
    assert Experiment.model_validate({"name": "e", "title": "t", "data_sets": {"films": {"config": "x"}}, **sections})
    with pytest.raises(ValueError, match="names no folder"):
        Experiment.model_validate({"name": "e", "title": "t", "data_sets": {name: {"config": "x"}}, **sections})


@pytest.mark.parametrize("content", [b"", b"a\n\xff\n", b"a\n\nb\n", b"a\nb\na\n", b"a\r\nb\r\n"])
def test_a_vocabulary_that_no_lookup_could_use_is_refused(tmp_path, content):
    (tmp_path / "items").write_bytes("a\nü\n".encode())
    assert read_vocabulary(tmp_path / "items") == ["a", "ü"]
    (tmp_path / "items").write_bytes(content)
    with pytest.raises(RunError, match="items has an item twice, an empty line, .* run again"):
        read_vocabulary(tmp_path / "items")


@pytest.mark.e2e
def test_ids_that_look_like_paths_stay_ids(tmp_path):
    rows = [
        {"item": f"../../item{n % 7}", "time": 1_000 * session + n, "user": f"/home/../{session}"}
        for session in range(40)
        for n in range(4)
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    source = {"format": "jsonl", "files": (str(log),)}
    data = DataConfig.model_validate(LOG.model_dump() | {"source": source, "shards": 1})
    preprocess(data, 1, str(tmp_path / "a" / "out"), str(tmp_path / "a" / "bad.jsonl"), 2e9)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    shards = [f"a/out/Split-{split}/sessions-00000-of-00001.gz" for split in ("test", "train", "valid")]
    assert found == ["a/bad.jsonl", *shards, "a/out/_MANIFEST.json", "log.jsonl"]
    (first, *_) = examples.read_sessions(str(tmp_path / "a" / "out"), "train")
    assert first.user_id.startswith("/home/../") and first.item_id[0].startswith("../../item")
