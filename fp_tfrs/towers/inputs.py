"""What a session tower sees: the one argument of every tower, made by `model.py` from a batch's indices."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from fp_tfrs.schema import PAD_INDEX


class TowerInputs(NamedTuple):
    """B sessions of at most T events, oldest first, padded on the right.

    item_embeddings: `<float>[B, T, D]`, zero at padding; where a method marks its inputs, the mark is added already.
    item_index: `<int32>[B, T]`, PAD_INDEX = padding, else FIRST_ITEM_INDEX...
    user_embeddings: `<float>[B, D]`, zero for an unknown user; None: the data has no users.
    history_embeddings: `<float>[B, H, D]`, items of the user's earlier sessions, latest first, zero at padding; None:
        there are none in the data. history_index: their `<int32>[B, H]` indices, padded on the right.
    """

    item_embeddings: tf.Tensor
    item_index: tf.Tensor
    user_embeddings: tf.Tensor | None = None
    history_embeddings: tf.Tensor | None = None
    history_index: tf.Tensor | None = None

    @property
    def is_item(self) -> tf.Tensor:
        """`<bool>[B, T]`: not padding."""
        return self.item_index != PAD_INDEX
