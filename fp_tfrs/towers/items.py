"""The item table: item_index → embedding, shared by inputs, targets, false positives and scores.

The table has V + 2 rows. Rows 0 (padding) and 1 (out of vocabulary) are zero and cannot be trained because they are not
stored: the variable holds the V rows of real items, and an index below `FIRST_ITEM_INDEX` reads as the zero vector.

A loss over the whole catalogue touches all rows, and the table's gradient is dense. A sampled loss touches few: then a step
takes all its lookups from one `ItemRows`, and the table's gradient is these rows, each once.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from fp_tfrs.schema import FIRST_ITEM_INDEX
from fp_tfrs.towers.rows import rows_or_zero


class ItemTable(tf.keras.layers.Layer):
    """The embeddings of all items, drawn from U(−1/√D, 1/√D) as in SR-GNN: a scale that does not depend on V."""

    def __init__(self, n_items: int, embedding_dim: int, seed: int, **kwargs):
        super().__init__(**kwargs)
        limit = embedding_dim**-0.5
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=(n_items, embedding_dim),
            initializer=tf.keras.initializers.RandomUniform(-limit, limit, seed),
        )

    def item_embeddings(self) -> tf.Tensor:
        """`<float>[V, D]`: rows FIRST_ITEM_INDEX.. of the table, one for each score."""
        return tf.convert_to_tensor(self.embeddings)

    def call(self, item_index: tf.Tensor) -> tf.Tensor:
        """`<int>[...]` item indices → `<float>[..., D]`; zero for padding and out of vocabulary.

        Raises tf.errors.InvalidArgumentError (on CPU) for an index beyond the table.
        """
        return rows_or_zero(self.item_embeddings(), item_index - FIRST_ITEM_INDEX)

    def rows(self, item_indices: Sequence[tf.Tensor]) -> ItemRows:
        """The rows of all items that a step touches: `<int>[...]` item indices, of any shapes; one real item at least."""
        item_index = tf.concat([tf.reshape(index, [-1]) for index in item_indices], 0)
        item_index, _ = tf.unique(tf.sort(item_index[item_index >= FIRST_ITEM_INDEX]))
        return ItemRows(item_index, tf.gather(self.embeddings, item_index - FIRST_ITEM_INDEX))


class ItemRows:
    """Rows of the item table, read in place of the table where no other item occurs.

    The table is gathered from once, by distinct items, so that its gradient is a `tf.IndexedSlices` without repetitions:
    its norm is that of the dense gradient, and clipping is right.

    Args:
        item_index: `<int>[U]` the items, distinct and sorted
        embeddings: `<float>[U, D]`
    """

    def __init__(self, item_index: tf.Tensor, embeddings: tf.Tensor):
        self._item_index, self._embeddings = item_index, embeddings

    def __call__(self, item_index: tf.Tensor) -> tf.Tensor:
        """`<int>[...]` item indices → `<float>[..., D]`; zero for padding and out of vocabulary.

        Raises tf.errors.InvalidArgumentError for an item that is not among the rows.
        """
        item_index = tf.convert_to_tensor(item_index)
        slot = tf.reshape(tf.searchsorted(self._item_index, tf.reshape(item_index, [-1])), tf.shape(item_index))
        slot = tf.minimum(slot, tf.size(self._item_index) - 1)
        is_item = item_index >= FIRST_ITEM_INDEX
        is_known = tf.gather(self._item_index, slot) == item_index
        message = "an item is looked up that is not among the step's rows"
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(is_known | ~is_item), [message])]):
            return rows_or_zero(self._embeddings, tf.where(is_item, slot, -1))
