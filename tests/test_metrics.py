import collections
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_tfrs.config import CUTOFFS
from fp_tfrs.errors import RunError
from fp_tfrs.learning.metrics import METRIC_NAMES, count_ranks, metric_matrix, ranks_from_scores
from fp_tfrs.learning.scoring import SeenOffsets
from fp_tfrs.serving.top_items import exclude


def oracle(scores, target, masked=()):
    """Rank and metrics of one target, by sorting: masked items come last, and it comes last among its equals."""
    order = sorted(range(len(scores)), key=lambda j: (j in masked, 0 if j in masked else -scores[j], j == target))
    rank = order.index(target) + 1
    metrics = {}
    for k in CUTOFFS:
        hit = target in order[:k]
        metrics[f"hr@{k}"] = 1.0 if hit else 0.0
        metrics[f"mrr@{k}"] = 1.0 / rank if hit else 0.0
        metrics[f"ndcg@{k}"] = math.log(2) / math.log(rank + 1) if hit else 0.0
    return rank, metrics


def test_worked_example():
    scores = np.array([[0.3, 0.9, 0.3], [0.3, 0.9, 0.1]])
    ranks = ranks_from_scores(scores, np.array([0, 0]))
    assert ranks.tolist() == [3, 2]
    metrics = metric_matrix(ranks[1:])
    assert (metrics["hr@5"][0], metrics["mrr@5"][0]) == (1, 0.5)
    assert metrics["ndcg@5"][0] == pytest.approx(0.6309, abs=5e-5)


def draw_case(rng, kind):
    """Scores of 3 sessions, their targets and masked items: ties abound, and K > V where the catalogue is small."""
    n_items = int(rng.integers(1, 150))
    n_levels = 1 if kind == "all equal" else rng.integers(1, 40)
    scores = rng.integers(0, n_levels, (3, n_items)).astype(
        "f4" if kind == "masked" else rng.choice(["f4", "f8", "i4"])
    )
    n_masked = rng.integers(0, n_items + 1) if kind == "masked" else 0
    masked = np.stack([rng.permutation(n_items)[:n_masked] for _ in range(3)])
    return scores, rng.integers(0, n_items, 3), masked


def test_agrees_with_sorting_on_random_cases(record_figure):
    rng, n_right, seen = np.random.default_rng(0), 0, collections.Counter()
    for case in range(1000):
        kind = ("ties", "ties", "masked", "all equal")[case % 4]
        scores, target, masked = draw_case(rng, kind)
        # Masked as in serving: −∞, which nothing that is offered ties with.
        offered = exclude(tf.constant(scores), tf.constant(masked)).numpy() if kind == "masked" else scores
        ranks = ranks_from_scores(offered, target)
        metrics = metric_matrix(ranks)
        for row in range(3):
            rank, expected = oracle(scores[row].tolist(), target[row], set(masked[row].tolist()))
            n_right += int(ranks[row] == rank)
            assert {name: metrics[name][row] for name in expected} == pytest.approx(expected)
            n_items = scores.shape[1]
            seen[kind, "target masked" if target[row] in masked[row] else "target offered"] += 1
            seen["K > V"] += n_items < CUTOFFS[-1]
            if kind == "all equal":  # such scores earn a hit only where every item is one
                assert [metrics[f"hr@{k}"][row] for k in CUTOFFS] == [n_items <= k for k in CUTOFFS]
    record_figure("metrics against an oracle", f"{n_right:,} of 3,000 ranks: ties, K > V, masked items", "1,000 cases")
    assert n_right == 3_000
    assert min(seen.values()) > 100 and len(seen) == 5, seen


def test_an_item_that_is_masked_is_no_rival():
    scores = tf.constant([[0.3, 0.9, 0.1, 0.3], [0.3, 0.9, 0.1, 0.3]])
    masked = exclude(scores, tf.constant([[1, -1], [1, 3]])).numpy()
    assert ranks_from_scores(masked, np.array([0, 0])).tolist() == [2, 1]
    assert ranks_from_scores(masked, np.array([1, 1])).tolist() == [4, 4]


def test_metric_bounds():
    metrics = metric_matrix(np.arange(0, 200))
    assert tuple(metrics) == METRIC_NAMES
    for k in CUTOFFS:
        assert (metrics[f"mrr@{k}"] <= metrics[f"ndcg@{k}"]).all()
        assert (metrics[f"ndcg@{k}"] <= metrics[f"hr@{k}"]).all()
    for k1, k2 in itertools.pairwise(CUTOFFS):
        hr_gain = metrics[f"hr@{k2}"] - metrics[f"hr@{k1}"]
        ndcg_gain = metrics[f"ndcg@{k2}"] - metrics[f"ndcg@{k1}"]
        assert (hr_gain >= 0).all() and (metrics[f"mrr@{k2}"] >= metrics[f"mrr@{k1}"]).all()
        assert (ndcg_gain >= hr_gain / np.log2(k2 + 1) - 1e-12).all()
        assert (ndcg_gain <= hr_gain / np.log2(k1 + 2) + 1e-12).all()


def test_constant_scores_earn_nothing_and_perfect_ones_everything():
    target = np.arange(150)
    assert sum(v.sum() for v in metric_matrix(ranks_from_scores(np.zeros((150, 150)), target)).values()) == 0
    assert all((v == 1).all() for v in metric_matrix(ranks_from_scores(np.eye(150), target)).values())


def test_random_scores_hit_k_of_v():
    rng = np.random.default_rng(1)
    ranks = ranks_from_scores(rng.random((20_000, 200)), rng.integers(0, 200, 20_000))
    for k in CUTOFFS:
        assert metric_matrix(ranks)[f"hr@{k}"].mean() == pytest.approx(k / 200, abs=0.012)


def test_item_not_in_the_catalogue_is_a_miss():
    assert all(v.tolist() == [0.0] for v in metric_matrix(np.array([0])).values())


def test_nan_fails_and_infinity_ranks():
    with pytest.raises(RunError, match="1 of 2 scores are NaN"):
        ranks_from_scores(np.array([[0.0, np.nan]]), np.array([0]))
    assert ranks_from_scores(np.array([[np.inf, -np.inf, -np.inf]]), np.array([1])).tolist() == [3]
    with pytest.raises(RunError, match="1 of 2 targets"):
        metric_matrix(np.array([-1, 3]))


def test_negative_column_is_refused():
    with pytest.raises(IndexError, match="negative"):
        ranks_from_scores(np.zeros((1, 3)), np.array([-1]))


def test_count_ranks_is_exact_for_every_chunk_size_with_ties():
    rng = np.random.default_rng(2)
    sessions = rng.integers(-2, 3, (40, 6)).astype(np.float32)
    items = rng.integers(-2, 3, (101, 6)).astype(np.float32)
    target = rng.integers(0, 101, 40)
    expected = ranks_from_scores(sessions @ items.T, target)
    for chunk_size in (1, 4, 28, 100, 404, 10_000):
        assert count_ranks(sessions, items, target, chunk_size).numpy().tolist() == expected.tolist()


def test_count_ranks_does_not_depend_on_chunk_batch_or_graph():
    rng = np.random.default_rng(3)
    sessions = rng.normal(size=(33, 50)).astype(np.float32)
    # Every item twice: its twin ties with it exactly, in another chunk.
    items = np.tile(rng.normal(size=(301, 50)).astype(np.float32), (2, 1))
    target = rng.integers(0, 602, 33)
    expected = count_ranks(sessions, items, target, 4 * 602).numpy()
    exact = sessions.astype(np.float64) @ items.astype(np.float64).T
    assert expected.tolist() == ranks_from_scores(exact.astype(np.float32), target).tolist()
    assert (expected % 2 == 0).all()
    for chunk_size in (4, 400, 1204, 4000):
        assert count_ranks(sessions, items, target, chunk_size).numpy().tolist() == expected.tolist()
    in_graph = tf.function(lambda s, e, t: count_ranks(s, e, t, 400))
    rows = [in_graph(sessions[i : i + 1], items, target[i : i + 1]).numpy()[0] for i in range(33)]
    assert rows == expected.tolist()


def test_count_ranks_shows_nan_and_unknown_targets():
    sessions = np.array([[1.0, 0.0], [np.nan, 0.0], [1.0, 1.0]], np.float32)
    items = np.eye(2, dtype=np.float32)
    assert count_ranks(sessions, items, np.array([0, 0, -1]), 8).numpy().tolist() == [1, -1, 0]
    for broken in (np.nan, np.inf):
        items[1, 1] = broken
        assert count_ranks(sessions, items, np.array([0, 0, 0]), 4).numpy().tolist() == [-1, -1, -1]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), chunk_size=st.sampled_from([4, 12, 60, 1000]))
def test_count_ranks_with_offsets_is_that_of_all_scores_with_offsets(seed, chunk_size):
    """Small whole and half numbers: ties with and without offsets abound, and all sums are exact."""
    rng = np.random.default_rng(seed)
    sessions, items = (rng.integers(-2, 3, shape).astype(np.float32) for shape in ((7, 3), (15, 3)))
    target = rng.integers(-1, 15, 7)
    column = np.stack([rng.permutation(15)[:5] for _ in range(7)])
    column[rng.random(column.shape) < 0.3] = -1
    offset = (rng.integers(-6, 7, column.shape) / 2 * (column >= 0)).astype(np.float32)
    scores = sessions @ items.T
    for row, k in np.argwhere(column >= 0):
        scores[row, column[row, k]] += offset[row, k]
    expected = np.where(target >= 0, ranks_from_scores(scores, np.maximum(target, 0)), 0)
    seen = SeenOffsets(tf.constant(column), tf.constant(offset))
    assert count_ranks(sessions, items, target, chunk_size, seen=seen).numpy().tolist() == expected.tolist()


def test_count_ranks_with_offsets_does_not_depend_on_chunk_or_batch_and_shows_nan():
    rng = np.random.default_rng(4)
    sessions, items = (rng.normal(size=shape).astype(np.float32) for shape in ((33, 50), (301, 50)))
    target = rng.integers(0, 301, 33)
    column = np.stack([rng.permutation(301)[:20] for _ in range(33)])
    column[:, 0] = np.where((column == target[:, None]).any(1), -1, target)
    offset = rng.normal(size=column.shape).astype(np.float32) * 5 * (column >= 0)
    exact = sessions.astype(np.float64) @ items.astype(np.float64).T
    np.add.at(exact, (np.arange(33)[:, None], np.maximum(column, 0)), offset)
    expected = ranks_from_scores(exact.astype(np.float32), target).tolist()
    for chunk_size in (4, 400, 2000):
        seen = SeenOffsets(tf.constant(column), tf.constant(offset))
        assert count_ranks(sessions, items, target, chunk_size, seen=seen).numpy().tolist() == expected
    offset[2, 3] = np.nan
    for row in range(4):
        seen = SeenOffsets(tf.constant(column[row : row + 1]), tf.constant(offset[row : row + 1]))
        rank = count_ranks(sessions[row : row + 1], items, target[row : row + 1], 400, seen=seen).numpy()[0]
        assert rank == (-1 if row == 2 else expected[row])
