"""Feedback marks: their worked example, padding, and what they teach."""

import numpy as np
import tensorflow as tf

from fp_tfrs.towers.marks import FeedbackMarks


def test_the_worked_example():
    layer = FeedbackMarks(2, seed=0)
    layer.set_weights([np.eye(2)])
    item_embeddings = tf.constant([[[2.0, 2.0], [2.0, 2.0], [0.0, 0.0]]])
    marked = layer(item_embeddings, tf.constant([[False, True, False]]), tf.constant([[True, True, False]]))
    np.testing.assert_array_equal(marked, [[[3, 2], [2, 3], [0, 0]]])


def test_each_mark_learns_from_its_own_inputs_and_items_as_without_marks():
    layer = FeedbackMarks(2, seed=0)
    item_embeddings = tf.Variable(np.ones([2, 3, 2], np.float32))
    is_false_positive = np.array([[True, False, True], [True, True, True]])
    is_item = np.array([[True, True, True], [True, False, False]])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(item_embeddings, is_false_positive, is_item))
    by_item, by_mark = tape.gradient(total, [item_embeddings, layer.marks])
    np.testing.assert_array_equal(by_item, np.ones([2, 3, 2]))
    np.testing.assert_array_equal(by_mark, [[1, 1], [3, 3]])


def test_marks_start_small_apart_and_from_the_seed():
    first, second, other = (FeedbackMarks(100, seed).marks.numpy() for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert (first != other).all() and (first[0] != first[1]).all()
    assert 0.01 < first.std() < 0.03
