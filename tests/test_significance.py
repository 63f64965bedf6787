import numpy as np
import pytest
import scipy.stats

from fp_tfrs.evaluation.bootstrap import difference_intervals, ratio_intervals
from fp_tfrs.evaluation.significance import holm, p_values

TABLES = 500
SESSIONS = 300
RESAMPLES = 999


def draw_differences(effect, seed, n_sessions=SESSIONS, n_tables=TABLES):
    """Totals <float64>[n_sessions, n_tables] and counts of independent comparisons, a column each.

    Both rankers hit 30 % of the targets, half of them the same ones; the first hits `effect` of all targets more.
    """
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 5, n_sessions)
    shape = (counts.sum(), n_tables)
    common, extra = rng.random(shape) < 0.15, rng.random(shape) < effect / 0.7
    first, second = (common | (rng.random(shape) < 0.15 / 0.85) for _ in range(2))
    difference = (first | extra).astype(float) - second
    totals = np.zeros((n_sessions, n_tables))
    np.add.at(totals, np.repeat(np.arange(n_sessions), counts), difference)
    return totals, counts


@pytest.fixture(scope="module")
def null():
    totals, counts = draw_differences(0.0, 0)
    return totals, counts, p_values(totals, counts, RESAMPLES, 1)


def test_false_alarms_are_5_percent_of_500_null_comparisons(null):
    totals, counts, p = null
    assert 0.03 <= (p < 0.05).mean() <= 0.07
    assert 0.06 <= (p < 0.1).mean() <= 0.14
    _, low, high = ratio_intervals(totals, counts, RESAMPLES, 1)
    assert 0.03 <= ((low > 0) | (high < 0)).mean() <= 0.07


def test_false_alarms_are_5_percent_of_200_null_comparisons_of_2000_sessions(record_figure):
    totals, counts = draw_differences(0.0, 6, n_sessions=2_000, n_tables=200)
    _, low, high = ratio_intervals(totals, counts, RESAMPLES, 1)
    share = ((low > 0) | (high < 0)).mean()
    record_figure("false alarms of the paired bootstrap, 2,000 sessions", f"{share:.1%} of 200", "5 % ± 3")
    assert 0.02 <= share <= 0.08


def test_p_below_5_percent_says_what_the_interval_says(null):
    totals, counts, p = null
    _, low, high = ratio_intervals(totals, counts, RESAMPLES, 1)
    differ = ((low > 0) | (high < 0)) != (p < 0.05)
    assert differ.mean() <= 0.01  # the quantile falls between two resamples


def test_power_is_that_of_the_normal_test():
    totals, counts = draw_differences(0.04, 2)
    p = p_values(totals, counts, RESAMPLES, 3)
    # Standard error of a mean of targets, drawn by sessions, from the 500 tables themselves.
    estimates = totals.sum(axis=0) / counts.sum()
    expected = scipy.stats.norm.sf(1.96 - estimates.mean() / estimates.std())
    assert 0.4 < expected < 0.9
    assert (p < 0.05).mean() == pytest.approx(expected, abs=0.05)


def test_agrees_with_the_t_test(null):
    totals, counts, p = null
    residual = totals - counts[:, None] * totals.sum(axis=0) / counts.sum()
    standard_error = np.sqrt((residual**2).sum(axis=0)) / counts.sum()
    normal = 2 * scipy.stats.norm.sf(np.abs(totals.sum(axis=0) / counts.sum() / standard_error))
    assert np.abs(p - normal).max() < 0.12
    assert np.abs(p - normal).mean() < 0.03


def test_p_of_a_sure_difference_is_the_smallest_there_is():
    totals, counts = np.ones((50, 1)), np.ones(50)
    assert p_values(totals, counts, 199, 0) == pytest.approx([2 / 200])
    assert p_values(0 * totals, counts, 199, 0).tolist() == [1]
    assert np.isnan(p_values(totals[:1], counts[:1], 199, 0)).all()


def test_holm_by_hand_and_as_stepwise_rejection():
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.5, np.nan, 0.9])) == pytest.approx([1, np.nan, 1], nan_ok=True)
    assert holm(np.zeros(0)).tolist() == []
    rng = np.random.default_rng(4)
    for _ in range(200):
        p = rng.random(rng.integers(1, 9)) ** 3
        rejected = set()
        for n, index in enumerate(np.argsort(p)):  # as Holm has it: on, until one is not small enough
            if p[index] > 0.05 / (len(p) - n):
                break
            rejected.add(int(index))
        assert set(np.flatnonzero(holm(p) <= 0.05).tolist()) == rejected


def test_holm_keeps_false_alarms_of_a_whole_table_at_5_percent(null):
    tables = null[2].reshape(50, 10)
    uncorrected = (tables < 0.05).any(axis=1).mean()
    corrected = np.mean([(holm(table) < 0.05).any() for table in tables])
    assert uncorrected > 0.2
    assert corrected <= 0.14  # 5 % of 50 tables: more than 7 come with a chance below 0.5 %


def test_difference_of_two_means_is_resampled_together():
    rng = np.random.default_rng(5)
    counts, other_counts = rng.integers(0, 4, 200), rng.integers(0, 3, 200)
    level = rng.random(200)  # of a session: what raises one mean raises the other
    totals, other = rng.binomial(counts, level)[:, None], rng.binomial(other_counts, level)[:, None]
    value, low, high = difference_intervals(totals, counts, other, other_counts, 4000, 1)
    assert value[0] == pytest.approx(totals.sum() / counts.sum() - other.sum() / other_counts.sum())

    def statistic(t, c, o, d, axis):
        return t.sum(axis) / c.sum(axis) - o.sum(axis) / d.sum(axis)

    data = (totals[:, 0], counts, other[:, 0], other_counts)
    theirs = scipy.stats.bootstrap(
        data, statistic, paired=True, vectorized=True, method="percentile", n_resamples=4000, random_state=2
    ).confidence_interval
    assert (low[0], high[0]) == pytest.approx((theirs.low, theirs.high), abs=0.006)
    apart = [ratio_intervals(t, c, 4000, 1) for t, c in ((totals, counts), (other, other_counts))]
    assert (high - low)[0] < 0.95 * np.hypot(*((i.high - i.low)[0] for i in apart))


def test_difference_of_too_few_sessions_has_no_interval():
    one, none, many = np.array([3, 0, 0]), np.zeros(3), np.array([1, 2, 3])
    totals = np.ones((3, 1))
    assert np.isnan(difference_intervals(totals, many, totals, none, 50, 0)).all()
    value, low, high = difference_intervals(totals, many, totals, one, 50, 0)
    assert value[0] == pytest.approx(3 / 6 - 3 / 3)
    assert np.isnan([low, high]).all()
    few = np.array([1, 1, 0])  # some resamples have none of these
    assert not np.isnan(difference_intervals(totals, many, few[:, None], few, 50, 0)).any()
