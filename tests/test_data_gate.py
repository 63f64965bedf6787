"""The gate between the data's checks and training: what stops a run, and what it says."""

import pytest
from tensorflow_metadata.proto.v0 import anomalies_pb2

from fp_tfrs import schema
from fp_tfrs.config import ValidationConfig
from fp_tfrs.data.data_gate import list_objections
from fp_tfrs.data.manifest import Manifest, SplitCounts

ENUM = anomalies_pb2.AnomalyInfo


def make_manifest(valid_fps=30, unseen=5):
    def split(false_positives, unseen_targets):
        return SplitCounts(
            sessions=10,
            events=100,
            false_positives=false_positives,
            first_start_s=0,
            last_start_s=1,
            targets=50,
            unseen_targets=unseen_targets,
        )

    return Manifest(
        fingerprint="",
        rows=300,
        bad_rows={},
        impressions=0,
        clicks=300,
        duplicate_events=0,
        short_sessions=0,
        short_events=0,
        cut_events=0,
        catalogue_items=9,
        feedback_ranges={},
        splits={schema.TRAIN: split(30, 0), schema.VALID: split(valid_fps, unseen), schema.TEST: split(30, 0)},
        shards=(),
    )


def make_anomalies(feature, kind, description):
    anomalies = anomalies_pb2.Anomalies()
    reason = anomalies.anomaly_info[feature].reason.add()
    reason.type, reason.description = kind, description
    return {schema.TEST: anomalies}


def test_clean_data_passes():
    assert list_objections({schema.TRAIN: anomalies_pb2.Anomalies()}, make_manifest(), ValidationConfig()) == []


@pytest.mark.parametrize(
    ("feature", "kind", "objections"),
    [
        ("item_id", ENUM.ENUM_TYPE_UNEXPECTED_STRING_VALUES, 0),  # new items are no fault of the data
        ("history_item_id", ENUM.ENUM_TYPE_UNEXPECTED_STRING_VALUES, 0),
        ("unclicked_item_id", ENUM.ENUM_TYPE_UNEXPECTED_STRING_VALUES, 0),
        ("unclicked_item_id", ENUM.FEATURE_TYPE_LOW_NUMBER_VALUES, 0),  # a session before which nothing was shown
        ("unclicked_first", ENUM.FEATURE_TYPE_HIGH_NUMBER_VALUES, 0),
        ("unclicked_end", ENUM.BOOL_TYPE_BIG_INT, 0),  # in training 0 and 1 only
        ("unclicked_end", ENUM.UNEXPECTED_DATA_TYPE, 1),
        ("is_false_positive", ENUM.BOOL_TYPE_BIG_INT, 1),
        ("item_id", ENUM.FEATURE_TYPE_LOW_NUMBER_VALUES, 1),
        ("item_id", ENUM.UNEXPECTED_DATA_TYPE, 1),
        ("country", ENUM.ENUM_TYPE_UNEXPECTED_STRING_VALUES, 1),
        ("country", ENUM.SCHEMA_NEW_COLUMN, 1),
    ],
)
def test_anomaly_stops_unless_it_is_a_new_id(feature, kind, objections):
    found = list_objections(make_anomalies(feature, kind, "what TFDV says"), make_manifest(), ValidationConfig())
    assert len(found) == objections
    assert all(text == f"test: feature {feature!r}: what TFDV says" for text in found)


@pytest.mark.parametrize("path", ["root/schema.pbtxt", None])
def test_what_an_inferred_schema_forbids_by_accident_has_a_remedy(path):
    anomalies = make_anomalies("country", ENUM.ENUM_TYPE_UNEXPECTED_STRING_VALUES, "what TFDV says")
    first, second = list_objections(anomalies, make_manifest(unseen=40), ValidationConfig(), path)
    assert ("correct a copy of root/schema.pbtxt" in first and first.endswith("validation.schema_file")) == bool(path)
    assert "schema" not in second
    (other,) = list_objections({}, make_manifest(unseen=40), ValidationConfig(), path)
    assert other == second


def test_changed_share_of_false_positives_is_named_with_value_and_limit():
    (objection,) = list_objections({}, make_manifest(valid_fps=60), ValidationConfig(max_fp_share_change=0.1))
    assert objection == (
        "valid: feature 'is_false_positive': the share of false positives is 0.600, in training 0.300; the difference "
        "0.300 is above validation.max_fp_share_change = 0.1"
    )
    assert list_objections({}, make_manifest(valid_fps=60), ValidationConfig(max_fp_share_change=0.31)) == []


def test_unseen_targets_above_the_limit_are_named():
    (objection,) = list_objections({}, make_manifest(unseen=40), ValidationConfig())
    assert objection == (
        "valid: feature 'item_id': 80.0% of the targets are items with fewer than data.min_item_support clicks in training, "
        "above validation.max_unseen_target_share = 0.5; lower data.min_item_support, or give more events"
    )
    assert list_objections({}, make_manifest(unseen=25), ValidationConfig()) == []  # the limit itself is none above
    limits = ValidationConfig(max_unseen_target_share=0.29)
    (objection,) = list_objections({}, make_manifest(unseen=15), limits)
    assert "30.0% of the targets" in objection and "max_unseen_target_share = 0.29; lower" in objection
