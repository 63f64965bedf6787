"""Feedback marks: which inputs were kept and which abandoned, said to the session tower in the item embeddings themselves.

Item embeddings of a batch in, the same with marks out, for `TowerInputs`. So a tower can use abandoned clicks at inference
too: "skips as input" of Mei, Bembom and Ehmann, UMAP 2024, and Pan et al., 2023 (arXiv 2308.13249).
"""

from __future__ import annotations

import tensorflow as tf


class FeedbackMarks(tf.keras.layers.Layer):
    """e_t + m_kept or e_t + m_abandoned; two learned vectors of D, drawn from N(0, 0.02²): items outweigh marks at first.

    Example: with m_kept = [1, 0] and m_abandoned = [0, 1] the embeddings [2, 2], [2, 2], [0, 0] of a kept item, an
    abandoned one and padding become [3, 2], [2, 3], [0, 0].
    """

    def __init__(self, embedding_dim: int, seed: int, **kwargs):
        super().__init__(**kwargs)
        self.marks = self.add_weight(  # kept, abandoned
            name="marks",
            shape=(2, embedding_dim),
            initializer=tf.keras.initializers.RandomNormal(stddev=0.02, seed=seed),
        )

    def call(self, item_embeddings: tf.Tensor, is_false_positive: tf.Tensor, is_item: tf.Tensor) -> tf.Tensor:
        """`<float>[B, T, D]`, `<bool>[B, T]` abandoned, `<bool>[B, T]` not padding → `<float>[B, T, D]`."""
        kept, abandoned = tf.unstack(self.marks)
        mark = tf.where(is_false_positive[..., tf.newaxis], abandoned, kept)
        return item_embeddings + mark * tf.cast(is_item, mark.dtype)[..., tf.newaxis]
