"""Raw example features → transformed ones: item ids become item indices. The body of TFX Transform's `preprocessing_fn`.

The catalogue is every item that was clicked, kept or abandoned, at least `min_item_support` times in the data that is
analysed (TFX analyses the training split only), most frequent first. Equal counts: the id that sorts later comes
first, so the vocabulary file depends on the clicks alone and not on their order. An id that is empty or holds a line
break cannot be in a vocabulary file and is out of the catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import tensorflow as tf
import tensorflow_transform as tft

from fp_tfrs import schema

Feature: TypeAlias = "tf.Tensor | tf.SparseTensor"


def preprocess_features(inputs: Mapping[str, Feature], min_item_support: int) -> dict[str, Feature]:
    """The transformed features of a batch of sessions.

    Args:
        inputs: the raw features of `schema.py`, sparse or, where Transform infers a fixed shape, dense.
        min_item_support: clicks below which an item is out of the catalogue.

    Returns:
        <int64> ITEM_INDEX in ITEM_ID's shape: vocabulary position + FIRST_ITEM_INDEX, or OOV_INDEX;
        SESSION_ID, USER_ID, TIMESTAMP_S and IS_FALSE_POSITIVE as they came.
    """
    position = tft.compute_and_apply_vocabulary(
        inputs[schema.ITEM_ID],
        default_value=schema.OOV_INDEX - schema.FIRST_ITEM_INDEX,
        frequency_threshold=min_item_support if min_item_support > 1 else None,
        vocab_filename=schema.ITEM_VOCABULARY,
    )
    if isinstance(position, tf.SparseTensor):
        item_index = position.with_values(position.values + schema.FIRST_ITEM_INDEX)
    else:
        item_index = position + schema.FIRST_ITEM_INDEX
    outputs = {
        name: inputs[name] for name in (schema.SESSION_ID, schema.USER_ID, schema.TIMESTAMP_S, schema.IS_FALSE_POSITIVE)
    }
    outputs[schema.ITEM_INDEX] = item_index
    return outputs
