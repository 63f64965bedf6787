"""The energies of additive attention over a session's past, for the towers that have it (NARM, SR-GNN, STAMP)."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import tensorflow as tf

_BLOCKS = 4


def past_energies(
    query: tf.Tensor,
    key: tf.Tensor,
    energy: Callable[[tf.Tensor], tf.Tensor],
    activation: Callable[[tf.Tensor], tf.Tensor],
) -> tf.Tensor:
    """energy(activation(query_t + key_j)) for every event t and those j ≤ t before it.

    The sum of all pairs, T·T·H numbers, is most of such a tower's cost, and half of it lies in the future. Events are
    taken in four blocks, each with the columns up to its own end: 5/8 of the pairs.

    Args:
        query: `<float>[B, T, H]`; key: `<float>[B, T, H]`.
        energy: the map of the last axis to 1.
        activation: of each number.

    Returns:
        `<float>[B, T, T]`; of the future anything finite.
    """
    # Not by indexing, whose gradient takes as long as a product.
    batch, n_steps, n_units = tf.unstack(tf.shape(query))
    bounds = [block * n_steps // _BLOCKS for block in range(_BLOCKS + 1)]
    sizes = [end - start for start, end in itertools.pairwise(bounds)]
    rows = []
    for queries, end in zip(tf.split(query, sizes, 1), bounds[1:], strict=True):
        keys = tf.slice(key, [0, 0, 0], [batch, end, n_units])
        pairs = activation(tf.expand_dims(queries, 2) + tf.expand_dims(keys, 1))
        rows.append(tf.pad(tf.squeeze(energy(pairs), -1), [[0, 0], [0, 0], [0, n_steps - end]]))
    return tf.concat(rows, 1)
