"""The item table: what it reads, the form of its gradient, and that few rows train as the whole table does."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_tfrs.towers.items import ItemTable

V, D = 12, 3


def test_item_table_reads_zero_below_the_first_item():
    items = ItemTable(3, 2, seed=0)
    looked_up = items(tf.constant([[0, 1, 2, 4]])).numpy()
    assert not looked_up[0, :2].any()
    np.testing.assert_array_equal(looked_up[0, 2:], items.embeddings.numpy()[[0, 2]])


def test_item_tables_gradient_is_dense_and_adds_up_repeated_items():
    items = ItemTable(3, 2, seed=0)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(items(tf.constant([[4, 0, 4], [1, 3, 4]])))
    gradient = tape.gradient(total, items.embeddings)
    assert isinstance(gradient, tf.Tensor)
    np.testing.assert_array_equal(gradient, [[0, 0], [1, 1], [3, 3]])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, V + 1), max_size=8), min_size=1, max_size=3), st.integers(2, V + 1))
def test_rows_read_and_train_as_the_table(index_lists, item):
    items = ItemTable(V, D, seed=0)
    indices = [tf.constant(index, tf.int32) for index in [*index_lists, [item]]]
    gradients = []
    for look_up in (items, lambda index: items.rows(indices)(index)):
        with tf.GradientTape() as tape:
            total = sum(tf.reduce_sum(tf.exp((k + 1) * look_up(index))) for k, index in enumerate(indices))
        gradients.append(tf.convert_to_tensor(tape.gradient(total, items.embeddings)))
    np.testing.assert_allclose(*gradients, rtol=1e-5)
    rows = items.rows(indices)
    for index in indices:
        np.testing.assert_array_equal(rows(index), items(index))


def test_rows_keep_the_shape_of_what_is_looked_up():
    items = ItemTable(V, D, seed=0)
    index = tf.constant([[[2, 0], [5, 13]]])
    assert items.rows([index])(index).shape == (1, 2, 2, D)
    assert items.rows([index])(index[0, 0]).shape == (2, D)
    assert items.rows([index])(tf.zeros([2, 0], tf.int32)).shape == (2, 0, D)


def test_rows_refuse_an_item_that_is_not_among_them():
    items = ItemTable(V, D, seed=0)
    rows = items.rows([tf.constant([2, 5, 9])])
    for stranger in (3, 6, 10, V + 1):
        with pytest.raises(tf.errors.InvalidArgumentError, match="not among the step's rows"):
            rows(tf.constant([5, stranger]))


def test_a_clipped_step_is_the_dense_one():
    # Items repeat within and between lookups: the gradient's norm must be that of their sums.
    inputs, labels = tf.constant([[2, 5, 5, 0], [5, 9, 1, 0]]), tf.constant([[5, 2, 7, 0], [9, 5, 0, 0]])
    found = []
    for is_sparse in (False, True):
        items = ItemTable(V, D, seed=0)
        before = items.embeddings.numpy()
        optimizer = tf.keras.optimizers.SGD(1.0, global_clipnorm=0.01)
        optimizer.build([items.embeddings])
        with tf.GradientTape() as tape:
            look_up = items.rows([inputs, labels]) if is_sparse else items
            loss = tf.reduce_sum(tf.square(look_up(inputs) + 1) - look_up(labels))
        gradient = tape.gradient(loss, items.embeddings)
        assert isinstance(gradient, tf.IndexedSlices) == is_sparse
        optimizer.apply_gradients([(gradient, items.embeddings)])
        found.append((tf.linalg.global_norm([gradient]), items.embeddings.numpy() - before))
    (dense_norm, dense_step), (norm, step) = found
    np.testing.assert_allclose(norm, dense_norm, rtol=1e-6)
    np.testing.assert_allclose(step, dense_step, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(np.linalg.norm(step), 0.01, rtol=1e-4)
