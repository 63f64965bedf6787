"""What will be abandoned is predicted too, by a query of its own. In: session embeddings. Out: those that abandoned targets
are predicted by.

Both kinds of clicks say what a session is about, but a ranking is to be of what will be kept alone:

    kept targets        −log softmax(s·E)_i
    abandoned targets   −log softmax(s⁻·E)_i · μ,    s⁻ = s + A s + a

with one session embedding s, one item table E, and μ = `abandoned_weight`; their weighted mean is the next-item loss. A and
a start at zero, so that training begins with one query for all clicks and parts them where they differ. Served is s·E:
P(i | s, kept), by Bayes' rule what ranks kept clicks best. Of the entire-space method (`satisfaction.py`), which learns
from all clicks too, it differs in that clickbait can't shape the ranking but through s and E.

Source: our choice; a second, negative sequence encoder over shared items has PNFRec (Ivanova et al., RecSys 2025).
"""

from __future__ import annotations

import tensorflow as tf


class AbandonedQuery(tf.keras.layers.Layer):
    """s⁻ = s + A s + a.

    Example, D = 1, A = 2, a = 1: s = 3 becomes 3 + 6 + 1 = 10.
    """

    def __init__(self, embedding_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.kernel = self.add_weight("kernel", (embedding_dim, embedding_dim), initializer="zeros")
        self.constant = self.add_weight("constant", (embedding_dim,), initializer="zeros")

    def call(self, session_embeddings: tf.Tensor) -> tf.Tensor:
        """`<float>[..., D]` → `<float>[..., D]`."""
        return session_embeddings + tf.tensordot(session_embeddings, self.kernel, 1) + self.constant
