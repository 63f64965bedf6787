"""Is the data fit to train on? TFDV anomalies and the manifest's shares → list of objections (empty = fit).

Called by the AnomalyGate component between ExampleValidator and Transform.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fp_tfrs import schema
from fp_tfrs.config import ValidationConfig
from fp_tfrs.data.manifest import Manifest

# Ids are open sets: TFDV infers a closed domain for a string feature with few values, and later ids break it. How many
# items are new is measured by the share of unseen targets instead.
OPEN_FEATURES = frozenset(
    {schema.SESSION_ID, schema.USER_ID, schema.ITEM_ID, schema.UNCLICKED_ITEM_ID, schema.HISTORY_ITEM_ID}
)
_EVENT_NUMBERS = frozenset({schema.UNCLICKED_FIRST, schema.UNCLICKED_END})
_OPEN_LISTS = _EVENT_NUMBERS | {schema.UNCLICKED_ITEM_ID, schema.HISTORY_ITEM_ID}
# Kind of anomaly → features of which it says nothing bad. If no training session's list is empty, or each has as many
# values, or all of them are 0 and 1, TFDV takes that for a rule.
_HARMLESS = {
    "ENUM_TYPE_UNEXPECTED_STRING_VALUES": OPEN_FEATURES,
    "FEATURE_TYPE_LOW_NUMBER_VALUES": _OPEN_LISTS,
    "FEATURE_TYPE_HIGH_NUMBER_VALUES": _OPEN_LISTS,
    "BOOL_TYPE_BIG_INT": _EVENT_NUMBERS,
}


def list_objections(
    anomalies: Mapping[str, Any], manifest: Manifest, limits: ValidationConfig, inferred_schema: str | None = None
) -> list[str]:
    """Everything that speaks against training on this data.

    Args:
        anomalies: split → `tensorflow_metadata.anomalies_pb2.Anomalies` of ExampleValidator.
        manifest: what preprocessing counted.
        limits: the configured limits.
        inferred_schema: the file of the schema that the data was held against, if nobody gave one: what holds of every
            training session by accident is in it, too.

    Returns:
        One sentence per objection: split, feature, value, limit; after those of the schema also what to do about it.
    """
    objections = []
    for split, found in sorted(anomalies.items()):
        if found.HasField("dataset_anomaly_info"):
            objections.append(f"{split}: {found.dataset_anomaly_info.description}")
        for feature, info in sorted(found.anomaly_info.items()):
            for reason in info.reason:
                kind = reason.DESCRIPTOR.fields_by_name["type"].enum_type.values_by_number[reason.type].name
                if feature in _HARMLESS.get(kind, ()):
                    continue
                objections.append(f"{split}: feature {feature!r}: {reason.description}")
    if objections and inferred_schema:
        objections[-1] += (
            f"; if the data is right, correct a copy of {inferred_schema}, which was inferred from the training split, and give it "
            "as validation.schema_file"
        )
    train_share = manifest.splits[schema.TRAIN].false_positive_share
    for split in (schema.VALID, schema.TEST):
        counts = manifest.splits[split]
        change = abs(counts.false_positive_share - train_share)
        if change > limits.max_fp_share_change:
            objections.append(
                f"{split}: feature {schema.IS_FALSE_POSITIVE!r}: the share of false positives is {counts.false_positive_share:.3f}, "
                f"in training {train_share:.3f}; the difference {change:.3f} is above "
                f"validation.max_fp_share_change = {limits.max_fp_share_change:g}"
            )
        if counts.unseen_target_share > limits.max_unseen_target_share:
            objections.append(
                f"{split}: feature {schema.ITEM_ID!r}: {counts.unseen_target_share:.1%} of the targets are items with "
                f"fewer than data.min_item_support clicks in training, above validation.max_unseen_target_share = "
                f"{limits.max_unseen_target_share:g}; lower data.min_item_support, or give more events"
            )
    return objections
