"""A log that is not what its schema and its past say stops the pipeline before training, and the message says all that is wrong."""

import pytest
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from test_pipeline import CONFIG, nodes_run, run_cli, versions, write_config

from fp_tfrs import schema

pytestmark = pytest.mark.e2e


def write_log(path):
    """400 sessions; the last tenth has twice the false positives, and of its items, as of its targets, 30 % are new."""
    rows = ["session_id,item_id,timestamp,dwell_s,country"]
    for session in range(400):
        is_late = session >= 360
        new_events = () if not is_late else (1, 3, 5) if session % 2 else (3, 5, 8)  # targets are the events from 5 on
        for event in range(10):
            item = 100 + session if event in new_events else (session * 7 + event) % 30
            dwell_s = 5 if event % 10 < (4 if is_late else 2) else 60
            rows.append(f"s{session},i{item},{1_600_000_000 + 1000 * session + event},{dwell_s},no")
    path.write_text("\n".join(rows))


def write_schema(path):
    """What was agreed on: no `country`, and `dwell_s` in whole seconds."""
    agreed = schema_pb2.Schema()
    texts = (schema.SESSION_ID, schema.USER_ID, schema.ITEM_ID)
    for name in (*texts, schema.TIMESTAMP_S, schema.IS_FALSE_POSITIVE, "dwell_s"):
        agreed.feature.add(name=name, type=schema_pb2.BYTES if name in texts else schema_pb2.INT)
    path.write_text(text_format.MessageToString(agreed))


def test_a_new_column_another_type_new_items_and_more_abandoned_are_named_with_value_and_limit(tmp_path, record_figure):
    write_log(tmp_path / "log.csv")
    write_schema(tmp_path / "schema.pbtxt")
    values = CONFIG | {
        "data": {
            "source": {"format": "csv", "files": [str(tmp_path / "log.csv")]},
            "columns": {"session_id": "session_id", "feedback": {"dwell_s": "float", "country": "string"}},
            "false_positive_when": [{"column": "dwell_s", "op": "<", "value": 10}],
        },
        "validation": {
            "schema_file": str(tmp_path / "schema.pbtxt"),
            "max_unseen_target_share": 0.25,
            "max_fp_share_change": 0.1,
        },
    }
    root = tmp_path / "root"
    run = run_cli("run", "--config", write_config(tmp_path, values), "--root", root)
    said = (
        "test: feature 'country': New column",
        "test: feature 'dwell_s': Expected data of type: INT but got FLOAT",
        "test: feature 'item_id': 30.0% of the targets are items with fewer than data.min_item_support clicks in training, "
        + "above validation.max_unseen_target_share = 0.25",
        "test: feature 'is_false_positive': the share of false positives is 0.400, in training 0.200; the difference "
        + "0.200 is above validation.max_fp_share_change = 0.1",
    )
    found = sum(text in run.stderr for text in said)
    record_figure(
        "data that has changed", f"{found} of {len(said)} kinds named before training", "4: column, value, limit"
    )
    assert run.returncode == 2 and found == len(said), run.stderr
    assert not {"Transform", "Trainer"} & set(nodes_run(run))
    assert versions(root) == [] and not (root / "state").exists()


def test_a_schema_that_was_edited_is_read_again(tmp_path):
    """The way out of a refusal: the data is right and the schema is not."""
    agreed = tmp_path / "schema.pbtxt"
    values = CONFIG | {"validation": {"schema_file": str(agreed)}}
    root = tmp_path / "root"
    run = run_cli("run", "--config", write_config(tmp_path, CONFIG), "--root", root)
    assert run.returncode == 0, run.stderr
    (inferred,) = root.glob("artifacts/SchemaGen/schema/*/schema.pbtxt")
    right = inferred.read_text()
    agreed.write_text(right.replace("FLOAT", "INT"))
    again = ["run", "--config", write_config(tmp_path, values), "--root", root]
    assert "Expected data of type: INT but got FLOAT" in run_cli(*again).stderr
    agreed.write_text(right)
    run = run_cli(*again)
    assert run.returncode == 0, run.stderr
