"""SR-GNN session tower: a graph network over each prefix's items turns item embeddings into session embeddings.

Session-based Recommendation with Graph Neural Networks, Wu et al., AAAI 2019, with the one propagation step of its
experiments. Where the paper, its authors' code and RecBole differ, `SrGnnConfig` has an option.

Each prefix has a graph of its own: its distinct items are nodes, its consecutive pairs edges. To build all of them would
cost T node states for each of T prefixes. But with one step a node's state depends on its own neighbours only, and these
change only when the session comes to the node or leaves it. So two states for each event are all there are: that of the
item it comes to, and that of the item it leaves. Any other node of the prefix still has the state in which it was left.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fp_tfrs.config import SrGnnConfig
from fp_tfrs.towers.additive_attention import past_energies
from fp_tfrs.towers.dropout import SeededDropout
from fp_tfrs.towers.inputs import TowerInputs


class NodeWeights(NamedTuple):
    """For two nodes at each event, how its features and its neighbours' are means of what was seen at events.

    Rows `<float>[B, 2T − 1, T]`: row t is the node of event t in the graph of events ≤ t, row T − 1 + t that of event t − 1
    in the same graph. Columns are events k ≤ t; a row sums to 1, or to 0 if the node has no such edge.

    own: k is at the node. arrivals: k → k + 1 is an edge to the node. departures: k − 1 → k is an edge from it.
    """

    own: tf.Tensor
    arrivals: tf.Tensor
    departures: tf.Tensor


def weigh_nodes(item_index: tf.Tensor, edge_weight: str, dtype: tf.DType = tf.float32) -> NodeWeights:
    """`<int32>[B, T]` sessions → rows of the normalised connection matrices of all their prefixes.

    For the session 1, 2, 3, 2, 4, item 2 when the session leaves it at the end (row T + 3) has the departures ½ for event 2
    (item 3) and ½ for event 4 (item 4), and the arrivals ½ for event 0 (item 1) and ½ for event 2 (item 3).

    Args:
        edge_weight: "once": a repeated edge counts as the first of its kind does; "count": each time.
    """
    n_steps = tf.shape(item_index)[1]
    is_past = tf.linalg.band_part(tf.ones([n_steps, n_steps], tf.bool), -1, 0)
    is_same = item_index[:, :, tf.newaxis] == item_index[:, tf.newaxis]
    is_earlier = is_past[:-1, 1:]  # the column's edge than the row's
    is_node = tf.concat([is_same, is_same[:, :-1]], 1)
    is_past = tf.concat([is_past, is_past[1:]], 0)
    is_edge = is_past[:, 1:]
    if edge_weight == "once":
        is_same_edge = is_same[:, 1:, 1:] & is_same[:, :-1, :-1]
        is_edge &= ~tf.reduce_any(is_same_edge & is_earlier, 2)[:, tf.newaxis]

    def normalise(is_counted: tf.Tensor) -> tf.Tensor:
        count = tf.cast(is_counted, dtype)
        return tf.math.divide_no_nan(count, tf.reduce_sum(count, 2, keepdims=True))

    arrivals, departures = is_node[..., 1:] & is_edge, is_node[..., :-1] & is_edge
    return NodeWeights(
        normalise(is_node & is_past),
        normalise(tf.pad(arrivals, [[0, 0], [0, 0], [0, 1]])),
        normalise(tf.pad(departures, [[0, 0], [0, 0], [1, 0]])),
    )


def weigh_last_visits(item_index: tf.Tensor, dtype: tf.DType = tf.float32) -> tf.Tensor:
    """`<int32>[B, T]` → `<float>[B, T, T]`: how often the item of event k is in the prefix of t, if k is its last visit there.

    For the session 1, 2, 1 the row of its end is 0, 1, 2.
    """
    n_steps = tf.shape(item_index)[1]
    is_past = tf.linalg.band_part(tf.ones([n_steps, n_steps], tf.bool), -1, 0)
    is_same = item_index[:, :, tf.newaxis] == item_index[:, tf.newaxis]
    count = tf.matmul(tf.cast(is_past, dtype), tf.cast(is_same, dtype))
    is_last = count == tf.linalg.diag_part(count)[:, tf.newaxis]
    return tf.where(is_past & is_last, count, 0)


class SrGnnTower(tf.keras.layers.Layer):
    """All prefixes of a session in one pass. For the prefix that ends at t, with e the item embeddings:

        h_v = mean of e_k over the events k at node v                       (the item's embedding, unless events are marked)
        a_v = [mean of W_in e_{k−1} + b_in over edges k−1 → k to v; mean of W_out e_k + b_out over edges k−1 → k from v]
        v_v = GRU cell(a_v, h_v)                                            (a mean over no edge is 0)
        q_j = w · σ(W₁ v_last + W₂ v_j + c),   g_t = Σ_{j≤t} q_j v_j        (over events: v_j is the node of event j)
        s_t = W₄ [g_t; v_last] + b                                          score of item i = s_t · E_i

    The means over edges are the paper's A^in H and A^out H. Where a method marks its events, an edge gives the neighbour as
    it was marked then. The cell is Keras' (reset after the product), as in the authors' code; RecBole's update gate is the
    negative of theirs. Their biases beside A^in and A^out are left out: the cell's own bias contains them. Cost B·T²·D +
    B·T·D². All weights start from U(±1/√D), as in the paper.
    """

    def __init__(self, config: SrGnnConfig, seed: int, **kwargs):
        super().__init__(**kwargs)
        seeds = [int(s) for s in np.random.SeedSequence(seed).generate_state(20) >> 1]
        dim, limit = config.embedding_dim, config.embedding_dim**-0.5

        def draw() -> tf.keras.initializers.Initializer:
            return tf.keras.initializers.RandomUniform(-limit, limit, seeds.pop())

        def dense(units: int, name: str, use_bias: bool) -> tf.keras.layers.Dense:
            return tf.keras.layers.Dense(
                units,
                use_bias=use_bias,
                kernel_initializer=draw(),
                bias_initializer=draw(),
                dtype=self.dtype,
                name=name,
            )

        self._config = config
        self._dropout = SeededDropout(config.dropout_embedding, seeds.pop(), dtype=self.dtype)
        self.arrivals = dense(dim, "arrivals", use_bias=True)  # W_in
        self.departures = dense(dim, "departures", use_bias=True)  # W_out
        self.cell = tf.keras.layers.GRUCell(
            dim,
            reset_after=True,
            kernel_initializer=draw(),
            recurrent_initializer=draw(),
            bias_initializer=draw(),
            dtype=self.dtype,
            name="cell",
        )
        self.query = dense(dim, "query", use_bias=True)  # W₁, c
        self.key = dense(dim, "key", use_bias=False)  # W₂
        self.energy = dense(1, "energy", use_bias=False)  # w
        self.decoder = dense(dim, "decoder", use_bias=True)  # W₄, b

    def build(self, input_shape: tf.TensorShape) -> None:
        """Makes the weights of the layers that are never called."""
        dim = self._config.embedding_dim
        for layer, n_units in ((self.arrivals, dim), (self.departures, dim), (self.cell, 2 * dim)):
            with tf.name_scope(layer.name):
                layer.build([None, n_units])
        super().build(input_shape)

    def call(self, inputs: TowerInputs, training: bool = False) -> tf.Tensor:
        """Sessions → `<float>[B, T, D]` session embeddings, zero at padding."""
        embeddings = self._dropout(inputs.item_embeddings, training=training)
        states = self._node_states(embeddings, inputs.item_index)
        n_steps = tf.shape(inputs.item_index)[1]
        come, left = tf.split(states, [n_steps, n_steps - 1], 1)  # row k of left: the node of event k once it is left
        query = self.query(come)
        _, queries = tf.split(query, [1, n_steps - 1], 1)
        to_others = past_energies(queries, self.key(left), self.energy, tf.sigmoid)
        to_itself = self.energy(tf.sigmoid(query + self.key(come)))  # [B, T, 1]
        weight = weigh_last_visits(inputs.item_index, come.dtype)
        at_end = tf.linalg.diag_part(weight)
        others = tf.linalg.set_diag(weight, tf.zeros_like(at_end))[:, 1:, :-1]
        total = tf.pad(tf.matmul(others * to_others, left), [[0, 0], [1, 0], [0, 0]])
        total += at_end[..., tf.newaxis] * to_itself * come
        sessions = self.decoder(tf.concat([total, come], -1))
        return sessions * tf.cast(inputs.is_item, sessions.dtype)[..., tf.newaxis]

    def _node_states(self, embeddings: tf.Tensor, item_index: tf.Tensor) -> tf.Tensor:
        """`<float>[B, 2T − 1, D]` states of the nodes of `NodeWeights`.

        The cell's products with a_v are taken of the events, before the means over edges, not of the nodes, which are
        twice as many. So its equations are here, and its weights alone are Keras'.
        """
        weights = weigh_nodes(item_index, self._config.edge_weight, embeddings.dtype)
        features = tf.matmul(weights.own, embeddings)
        input_bias, state_bias = tf.unstack(self.cell.bias)
        arrivals_kernel, departures_kernel = tf.split(self.cell.kernel, 2)

        def mean_over_edges(weight: tf.Tensor, layer: tf.keras.layers.Dense, kernel: tf.Tensor) -> tf.Tensor:
            bias = tf.linalg.matvec(kernel, layer.bias, transpose_a=True)
            return tf.matmul(weight, tf.tensordot(embeddings, tf.matmul(layer.kernel, kernel), 1) + bias)

        def read_edges() -> tf.Tensor:
            from_before = mean_over_edges(weights.arrivals, self.arrivals, arrivals_kernel)
            return from_before + mean_over_edges(weights.departures, self.departures, departures_kernel) + input_bias

        batch, n_nodes, _ = tf.unstack(tf.shape(features))
        without_edges = functools.partial(tf.broadcast_to, input_bias, [batch, 1, input_bias.shape[0]])
        from_edges = tf.split(tf.cond(n_nodes == 1, without_edges, read_edges), 3, -1)
        from_state = tf.split(tf.tensordot(features, self.cell.recurrent_kernel, 1) + state_bias, 3, -1)
        update, reset = (tf.sigmoid(x + h) for x, h in zip(from_edges[:2], from_state[:2], strict=True))
        return update * features + (1 - update) * tf.tanh(from_edges[2] + reset * from_state[2])
