"""95 % intervals of micro-averaged metrics, by resampling sessions.

In: per session, the sums of each metric over its targets and the number of its targets. Out: each metric's value with
its interval. Sessions, not targets, are drawn: targets of one session are not independent. A paired difference of two
rankers on the same targets is the metric whose per-session sum is the difference of theirs; being a column among the
others it comes from the same resamples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_BLOCK_BYTES = 32 * 2**20


class Intervals(NamedTuple):
    """<float64>[C] each; NaN where there was nothing to compute it from."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


def ratio_intervals(totals: np.ndarray, counts: np.ndarray, resamples: int, seed: int) -> Intervals:
    """Σ totals / Σ counts over sessions with percentile bootstrap intervals.

    Sessions without targets are left out before drawing. All columns share the resamples; the same seed and number of
    sessions give the same ones. Weights are held for at most 32 MiB of resamples at a time.

    Args:
        totals: <float64>[S, C] sum of each metric over the session's targets.
        counts: <number>[S] the session's targets, or the sum of their weights.
        resamples: how many times S sessions are drawn.
        seed: of the draws.

    Returns:
        value, and the 2.5 % and 97.5 % quantiles of the resamples. No session: all NaN; a single session, which tells
        nothing about others: low and high NaN.
    """
    totals, counts = totals[counts > 0], counts[counts > 0]
    n_sessions, n_columns = totals.shape
    unknown = np.full(n_columns, np.nan)
    if n_sessions == 0:
        return Intervals(unknown, unknown, unknown)
    value = totals.sum(axis=0) / counts.sum()
    if n_sessions == 1:
        return Intervals(value, unknown, unknown)
    rng = np.random.default_rng(seed)
    estimates = np.empty((resamples, n_columns))
    block = max(1, _BLOCK_BYTES // (8 * n_sessions))
    for start in range(0, resamples, block):
        weights = np.empty((min(block, resamples - start), n_sessions))
        for row in weights:
            row[:] = np.bincount(rng.integers(0, n_sessions, n_sessions), minlength=n_sessions)
        estimates[start : start + block] = (weights @ totals) / (weights @ counts)[:, None]
    low, high = np.quantile(estimates, (0.025, 0.975), axis=0)
    return Intervals(value, low, high)
