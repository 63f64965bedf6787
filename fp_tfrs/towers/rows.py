"""Looking up rows of a table of which some indices have none: they read as the zero vector, and train nothing."""

from __future__ import annotations

import tensorflow as tf


@tf.custom_gradient
def rows_or_zero(table: tf.Tensor, row: tf.Tensor):
    """`<float>[R, D]` and `<int>[...]` → `<float>[..., D]`; zero for a row below 0.

    The table's gradient is dense. tf.gather's own is a list of rows with repetitions, of which the optimiser would take the
    global norm before it adds them up: gradient clipping would be wrong.
    """
    is_row = tf.cast(row >= 0, table.dtype)[..., tf.newaxis]

    def gradient(upstream: tf.Tensor):
        # Rows below 0 are dropped by the segment sum.
        return tf.math.unsorted_segment_sum(upstream, row, tf.shape(table)[0]), None

    return tf.gather(table, tf.maximum(row, 0)) * is_row, gradient
