"""Soft labels: worked examples, scikit-learn's mixture, and the hidden flag of simulated logs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score
from sklearn.mixture import GaussianMixture

from fp_tfrs.data.soft_labels import Mixture, dislike_degree, estimate, fit
from fp_tfrs.errors import InputError
from fp_tfrs.simulation.simulate import build_model, draw_blocks

PROPERTY = settings(deadline=None, max_examples=40)


# --- degree of dislike


def test_dislike_degree_worked_example():
    degree = dislike_degree(np.array([1, 2, 4, 5, 0.5, np.nan]), np.array([2, 1, np.nan, 4, 2]))
    np.testing.assert_array_equal(degree, [0.875, 0.5, 0.125, 0, 1, np.nan])


def test_without_measured_false_positives_no_degree_is_known():
    assert np.isnan(dislike_degree(np.array([1.0, 2.0]), np.array([np.nan]))).all()


@PROPERTY
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.lists(st.floats(-6, 6), min_size=2, max_size=10))
def test_degrees_fall_with_the_value_and_those_of_false_positives_average_one_half(fp_values, values):
    degree = dislike_degree(np.sort(values), np.array(fp_values))
    assert (np.diff(degree) <= 0).all() and degree.min() >= 0 and degree.max() <= 1
    assert dislike_degree(np.array(fp_values), np.array(fp_values)).mean() == pytest.approx(0.5)
    stretched = dislike_degree(np.exp(np.sort(values)), np.exp(fp_values))
    if len({*fp_values, *values}) == len({*np.exp(fp_values), *np.exp(values)}):  # no two became one by rounding
        np.testing.assert_array_equal(stretched, degree)


# --- probability of a false positive


def _drawn(count=20_000, seed=0):
    """Log values, positions and flags of clicks that follow a known mixture."""
    random = np.random.default_rng(seed)
    truth = Mixture(1.0, 4.0, 0.8, intercept=0.5, slope=-0.7)
    position = random.integers(0, 15, count)
    is_fp = random.random(count) < 1 / (1 + np.exp(-truth.prior_logit(position)))
    return truth, random.normal(np.where(is_fp, 1.0, 4.0), 0.8), position, is_fp


def test_posterior_worked_example():
    mixture = Mixture(0.0, 2.0, 1.0, 0.0, 0.0)
    logit = mixture.posterior_logit(np.array([1.0, 0.0]), np.array([0, 3]))
    np.testing.assert_allclose(1 / (1 + np.exp(-logit)), [0.5, 0.8808], atol=1e-4)


def test_posterior_is_bayes_rule():
    truth, x, position, _ = _drawn(50)
    prior = 1 / (1 + (1 + position) ** 0.7 * np.exp(-0.5))
    abandoned, kept = prior * np.exp(-((x - 1) ** 2) / 1.28), (1 - prior) * np.exp(-((x - 4) ** 2) / 1.28)
    np.testing.assert_allclose(
        1 / (1 + np.exp(-truth.posterior_logit(x, position))), abandoned / (abandoned + kept), rtol=1e-9
    )
    density = (abandoned + kept) / np.sqrt(2 * np.pi * 0.64)
    assert truth.log_likelihood(x, position) == pytest.approx(np.log(density).mean())


def test_the_mixture_that_drew_the_values_is_found():
    truth, x, position, _ = _drawn()
    found = fit(x, position)
    for name, tolerance in (("abandoned_mean", 0.05), ("kept_mean", 0.05), ("deviation", 0.02), ("slope", 0.06)):
        assert getattr(found, name) == pytest.approx(getattr(truth, name), abs=tolerance), name
    assert found.log_likelihood(x, position) >= truth.log_likelihood(x, position)


def test_where_position_says_nothing_it_is_scikit_learns_mixture():
    _, x, position, _ = _drawn()
    found = fit(x, 0 * position)
    library = GaussianMixture(2, covariance_type="tied", tol=1e-9, max_iter=2000, random_state=0).fit(x[:, np.newaxis])
    assert sorted(library.means_[:, 0]) == pytest.approx([found.abandoned_mean, found.kept_mean], abs=0.01)
    assert np.sqrt(library.covariances_[0, 0]) == pytest.approx(found.deviation, abs=0.01)
    assert found.log_likelihood(x, 0 * position) == pytest.approx(library.score(x[:, np.newaxis]), abs=1e-4)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_hidden_flag_of_a_simulated_log_is_found(seed):
    (block,) = draw_blocks(build_model(500, seed), 4000, seed)
    first = np.flatnonzero(np.diff(block.session, prepend=-1))
    position = np.arange(len(block.session)) - np.repeat(first, np.diff(first, append=len(block.session)))
    is_fp, probability = ~block.is_kept, estimate(block.dwell_s, position)
    assert roc_auc_score(is_fp, probability) > 0.95
    assert brier_score_loss(is_fp, probability) < 0.25 * is_fp.mean() * (1 - is_fp.mean())
    assert probability.mean() == pytest.approx(is_fp.mean(), abs=0.05)


@PROPERTY
@given(st.integers(0, 10_000), st.floats(0.5, 4), st.floats(0.3, 1.5))
def test_a_shorter_dwell_is_never_less_suspicious(seed, gap, deviation):
    random = np.random.default_rng(seed)
    values = np.exp(random.normal(gap * random.integers(0, 2, 400), deviation))
    values[random.random(400) < 0.05] = 0
    try:
        probability = estimate(values, np.zeros(400, int))
    except InputError:
        return  # the two kinds lie too close to be told apart
    by_value = probability[np.argsort(values)]
    assert (np.diff(by_value) <= 0).all() and 0 <= by_value[-1] < by_value[0] <= 1


def test_a_click_that_was_not_measured_has_the_prior_of_its_position():
    truth, x, position, _ = _drawn()
    values = np.exp(x)
    values[:5000] = np.nan
    probability = estimate(values, position)[:5000]
    expected = 1 / (1 + np.exp(-truth.prior_logit(position[:5000])))
    np.testing.assert_allclose(probability, expected, atol=0.04)


def test_scale_does_not_matter():
    _, x, position, _ = _drawn(2000)
    np.testing.assert_allclose(estimate(np.exp(x), position), estimate(1000 * np.exp(x), position), atol=1e-3)


RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(
    "values, message",
    [
        ([3.0] * 99, "only 99 clicks"),
        ([0.0] * 500 + [2.0] * 50, "only 50 clicks"),
        ([np.nan] * 500, "only 0 clicks"),
        ([7.0] * 500, "all the same"),
        ([1.0, 2.0] * 250, "but two above 0"),
        ([0.0, 1.0, 5.0] * 250, "but two above 0"),
        (np.exp(RANDOM.normal(size=2000)), "a single normal distribution"),
        (np.exp(np.append(RANDOM.normal(size=4000), [12.0] * 30)), "of all"),
        ([-1.0] + [2.0] * 200, "0 or more"),
        ([np.inf] + [2.0] * 200, "0 or more"),
    ],
)
def test_values_that_say_nothing_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        estimate(np.array(values), np.zeros(len(values), int))
