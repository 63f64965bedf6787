"""Dropout whose random state a checkpoint keeps, so that an interrupted training goes on as if it had not been."""

from __future__ import annotations

import tensorflow as tf

_N_LEVELS = 2**16


class SeededDropout(tf.keras.layers.Layer):
    """Inverted dropout: zeroes a share `rate` of the values in training and scales the rest by 1/(1 − rate).

    `tf.keras.layers.Dropout` leaves its random state out of `tf.train.Checkpoint`; here it is a tracked
    `tf.random.Generator` (and no weight of the layer). A value's number is drawn from 65,536, to which rates are rounded:
    to draw 16 bits is faster than TensorFlow's 32, and no float is made of them.
    """

    def __init__(self, rate: float, seed: int, **kwargs):
        super().__init__(**kwargs)
        self._n_dropped = min(round(rate * _N_LEVELS), _N_LEVELS - 1)
        self._generator = tf.random.Generator.from_seed(seed, alg="philox")

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        if not training or self._n_dropped == 0:
            return inputs
        n_values = tf.size(inputs)
        numbers = tf.reshape(tf.bitcast(self._draw((n_values + 1) // 2), tf.uint16), [-1])[:n_values]
        is_kept = tf.reshape(numbers >= self._n_dropped, tf.shape(inputs))
        return inputs * (tf.cast(is_kept, inputs.dtype) * (_N_LEVELS / (_N_LEVELS - self._n_dropped)))

    def _draw(self, n: tf.Tensor) -> tf.Tensor:
        """`<uint32>[n]`, all bits random."""
        if tf.distribute.get_replica_context().num_replicas_in_sync == 1:
            return self._generator.uniform_full_int([n], tf.uint32)
        # Replicas have masks of their own, and shapes: the state must advance alike on all, or none of them would be right
        # to go on from.
        seed = self._generator.make_seeds()[:, 0]
        return tf.random.stateless_uniform([n], seed, None, None, tf.uint32)
