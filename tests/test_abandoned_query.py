"""Two queries: the worked example, the loss from its definition in NumPy, and what is served."""

import numpy as np
import pytest
import tensorflow as tf

from fp_tfrs import schema
from fp_tfrs.config import LossConfig, ModelConfig, NarmConfig, NextItemConfig
from fp_tfrs.learning.abandoned_query import AbandonedQuery, log_odds_offset
from fp_tfrs.learning.model import SessionModel

V, D = 12, 6


CLICKS, ABANDONED = np.arange(2, V + 2), np.arange(V) // 2


def _model(next_item=None, xdm=None, **loss):
    tower = NarmConfig(embedding_dim=D, hidden_dim=D, dropout_embedding=0, dropout_context=0)
    config = ModelConfig(
        method="two_queries", tower=tower, loss=LossConfig(**loss), next_item=next_item or NextItemConfig(), xdm=xdm
    )
    model = SessionModel(config, V, 3, CLICKS, abandoned_counts=ABANDONED)
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign_add(random.normal(size=variable.shape, scale=0.4))
    return model


def _batch(n_fp=0):
    return {
        schema.ITEM_INDEX: np.array([[2, 5, 7], [3, 4, 0]], np.int32),
        schema.INPUT_IS_FP: np.array([[False, True, False], [False, False, False]]),
        schema.LABEL: np.array([[5, 7, 9], [4, 13, 0]], np.int32),
        schema.LABEL_IS_FP: np.array([[True, False, True], [False, False, False]]),
        schema.FP_INDEX: np.array([[5, 9], [0, 0]], np.int32)[:, :n_fp],
        schema.FP_PROBABILITY: np.zeros((2, 3, n_fp), np.float32) + np.array([[[0.5]], [[0]]], np.float32)[:, :, :n_fp],
    }


def _loss(model, batch):
    return float(model.compute_loss({name: tf.constant(value) for name, value in batch.items()}))


def test_the_worked_examples():
    np.testing.assert_allclose(log_odds_offset(np.array([12, 0, 24]), np.array([9, 0, 0]), 4)[:2], [np.log(5), 0])
    query = AbandonedQuery(1, np.array([4.0, 5.0]))
    query.set_weights([np.array([[2.0]]), np.array([1.0])])
    found = query.queries(tf.constant([[3.0], [3.0]]), tf.constant([False, True]))
    np.testing.assert_array_equal(found, [[3, 0], [10, 1]])
    items = tf.constant([[6.0], [7.0]])
    np.testing.assert_array_equal(query.candidates(items), [[6, 4], [7, 5]])
    np.testing.assert_array_equal(query.candidates(items, tf.constant([1, -1])), [[6, 5], [7, 0]])


def test_the_offset_is_bayes_rule_where_items_alone_decide():
    """Clicks drawn by popularity, abandoned by item: kept popularity times the offset's odds is abandoned popularity."""
    clicks = np.array([1000.0, 4000, 10_000, 200])
    abandoned = clicks * [0.1, 0.5, 0.3, 0.9]
    kept = clicks - abandoned
    found = kept / kept.sum() * np.exp(log_odds_offset(clicks, abandoned, 1e-9))
    np.testing.assert_allclose(found, abandoned / abandoned.sum(), rtol=1e-6)


@pytest.mark.parametrize("abandoned", [np.zeros(4), np.full(4, 5.0)])
def test_without_two_kinds_of_clicks_there_is_no_offset(abandoned):
    np.testing.assert_array_equal(log_odds_offset(np.full(4, 5.0), abandoned), np.zeros(4))


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_is_the_weighted_mean_of_two_softmaxes(weight):
    model, batch = _model(abandoned_weight=weight, lambda_fp=0), _batch()
    sessions, items = model.session_embeddings(batch).numpy(), model.candidates().numpy()
    kernel, constant = model.task.abandoned_query.get_weights()
    offset = log_odds_offset(CLICKS, ABANDONED)
    assert np.ptp(offset) > 0.3
    costs, weights = [], []
    for row, step in zip(*np.nonzero(batch[schema.LABEL]), strict=True):
        query, is_fp = sessions[row, step], batch[schema.LABEL_IS_FP][row, step]
        query = query + query @ kernel + constant if is_fp else query
        scores = items @ query + (offset if is_fp else 0)
        costs.append(np.log(np.exp(scores).sum()) - scores[batch[schema.LABEL][row, step] - schema.FIRST_ITEM_INDEX])
        weights.append(weight if is_fp else 1)
    assert _loss(model, batch) == pytest.approx(np.average(costs, weights=weights), rel=1e-5)
    logs = {metric.name: float(metric.result()) for metric in model.metrics}
    is_kept = np.array([w == 1 for w in weights]) if weight < 1 else ~batch[schema.LABEL_IS_FP][batch[schema.LABEL] > 0]
    assert logs["next_item_loss"] == pytest.approx(np.mean(np.array(costs)[is_kept]), rel=1e-5)
    assert logs["abandoned_loss"] == pytest.approx(np.mean(np.array(costs)[~is_kept]), rel=1e-5)


def test_the_term_compares_kept_targets_with_what_was_abandoned_and_no_abandoned_ones():
    """Session 1 is the only one with false positives; of its targets just the second was kept."""
    model, batch = _model(lambda_fp=1, abandoned_weight=0.5), _batch(n_fp=2)
    without = _loss(model, batch | {schema.FP_PROBABILITY: np.zeros_like(batch[schema.FP_PROBABILITY])})
    one = {**batch, schema.FP_PROBABILITY: batch[schema.FP_PROBABILITY].copy()}
    one[schema.FP_PROBABILITY][0, [0, 2]] = 0
    assert _loss(model, batch) == pytest.approx(_loss(model, one), rel=1e-6)
    assert _loss(model, batch) > without + 1e-3


@pytest.mark.parametrize("denominator", ["active_fp", "all"])
def test_the_terms_figures_are_over_kept_targets(denominator):
    """One kept target has false positives, one has none; an abandoned one more changes nothing."""
    batch = _batch(n_fp=2)
    fewer = {**batch, schema.LABEL: np.array([[0, 7, 0], [4, 0, 0]], np.int32)}
    more = {**fewer, schema.LABEL: np.array([[5, 7, 9], [4, 0, 0]], np.int32)}
    found = []
    for case in (fewer, more):
        model = _model(lambda_fp=1, abandoned_weight=0.0, denominator=denominator)
        loss = _loss(model, case)
        logs = {metric.name: float(metric.result()) for metric in model.metrics}
        found.append((loss, logs["metric_loss"], logs["fp_position_share"]))
    assert found[0] == pytest.approx(found[1], rel=1e-6) and found[0][2] == 0.5


def test_what_was_shown_and_not_clicked_is_compared_with_kept_targets_alone():
    """XDM's triplet pulls a session to its target: not to one that was abandoned."""
    batch = _batch() | {
        schema.UNCLICKED_INDEX: np.array([[10], [11]], np.int32),
        schema.IS_UNCLICKED: np.ones((2, 3, 1), bool),
    }
    for is_abandoned, is_pulled in ((True, False), (False, True)):
        model = _model(lambda_fp=0, abandoned_weight=0.0, xdm={"lambda_unclicked": 10.0, "fusion": "none"})
        case = batch | {schema.LABEL_IS_FP: np.full((2, 3), is_abandoned)}
        _loss(model, case)
        (share,) = (float(metric.result()) for metric in model.metrics if metric.name == "unclicked_position_share")
        (cost,) = (float(metric.result()) for metric in model.metrics if metric.name == "unclicked_loss")
        assert (cost > 0, share > 0) == (is_pulled, is_pulled)


def test_sampled_items_have_the_offsets_too_before_abandoned_targets_alone():
    """Drawing from all items by popularity, many times, −log p is that of the full softmax plus a constant: the number drawn."""
    sampled = NextItemConfig(kind="sampled_softmax", negatives=20_000)
    only_kept = {**_batch(), schema.LABEL_IS_FP: np.zeros((2, 3), bool)}
    shifts = [_loss(_model(sampled, lambda_fp=0), b) - _loss(_model(lambda_fp=0), b) for b in (_batch(), only_kept)]
    assert shifts[0] == pytest.approx(shifts[1], abs=0.05) and np.ptp(log_odds_offset(CLICKS, ABANDONED)) > 0.3


def test_at_the_start_both_kinds_of_targets_have_one_query_and_training_parts_them():
    tower = NarmConfig(embedding_dim=D, hidden_dim=D, dropout_embedding=0, dropout_context=0)
    model = SessionModel(ModelConfig(method="two_queries", tower=tower), V, 3, np.ones(V))
    some = tf.random.stateless_normal([4, D], [1, 2])

    def difference():
        kept, abandoned = (model.task.abandoned_query.queries(some, tf.fill([4], flag)) for flag in (False, True))
        return np.abs(abandoned - kept)[:, :D].max()

    assert difference() == 0
    model.compile(optimizer=tf.keras.optimizers.Adam(0.1))
    model.fit(tf.data.Dataset.from_tensors(_batch(n_fp=2)).repeat(3), verbose=0)
    assert difference() > 0.01
