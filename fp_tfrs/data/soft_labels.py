"""What the measured satisfaction of clicks says of dislike. In: dwell time, share of it, or rating of every click of
the training split, higher = liked more, and its position in the session. Out, a number between 0 and 1 for each click:

    dislike_degree    how much a false positive was disliked beside other false positives, where a rule tells them
    estimate          the probability that a click is a false positive, without any rule

Source: our choice. FP-AdaMetric names "automatically finding false positives" as future work; the mixture with a
covariate-dependent share is the mixture of experts of Jacobs et al. (1991) with constant experts.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from fp_tfrs.errors import InputError

_LEAST_VALUES = 100
_LEAST_SHARE = 0.01
_MOST_ROUNDS = 1000
_TOLERANCE = 1e-7  # nats per click and round


def dislike_degree(values: np.ndarray, fp_values: np.ndarray) -> np.ndarray:
    """1 − the empirical distribution function of false positives' values, at `values`; equal values count half.

    Ranks make dwell in seconds, shares and ratings comparable: whatever the measure, the degrees of the false positives
    themselves spread evenly, with mean 1/2.

    Args:
        values: `<float>[N]`, NaN = not measured
        fp_values: `<float>[M]` of the training split's false positives; NaN is left out

    Returns:
        `<float64>[N]` in [0, 1]; NaN where the value is NaN, or where no false positive was measured.

    Example: the false positives have 1, 2, 2, 4. A click with 1 has degree 1 − (0 + 1/2)/4 = 0.875, one with 2
    1 − (1 + 2/2)/4 = 0.5, one with 4 0.125, one with 5 0.
    """
    values, ordered = np.asarray(values, np.float64), np.sort(np.asarray(fp_values, np.float64))
    ordered = ordered[~np.isnan(ordered)]
    if not len(ordered):
        return np.full(values.shape, np.nan)
    below, up_to = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return np.where(np.isnan(values), np.nan, 1 - (below + up_to) / (2 * len(ordered)))


@dataclasses.dataclass(frozen=True)
class Mixture:
    """x = log value of a click at position t (from 0) is normal around one of two means, and

        P(abandoned | x, t)
            = σ( intercept + slope·log(1 + t) + ((x − kept_mean)² − (x − abandoned_mean)²)/(2·deviation²) )

    One deviation for both, and abandoned_mean < kept_mean: the squares of x cancel, and the probability falls with x.

    Example: means 0 and 2, deviation 1, intercept = slope = 0: P = σ(2 − 2x): at x = 1 1/2, at x = 0 0.8808.
    """

    abandoned_mean: float
    kept_mean: float
    deviation: float
    intercept: float
    slope: float

    def prior_logit(self, position: np.ndarray) -> np.ndarray:
        """`<int>[N]` → `<float64>[N]`: log odds of an abandoned click before its value is known."""
        return self.intercept + self.slope * np.log1p(position)

    def posterior_logit(self, log_value: np.ndarray, position: np.ndarray) -> np.ndarray:
        """`<float>[N]`, `<int>[N]` → `<float64>[N]`: log odds of an abandoned click; the prior's for NaN."""
        gap = (self.kept_mean - self.abandoned_mean) / self.deviation**2
        evidence = gap * ((self.kept_mean + self.abandoned_mean) / 2 - log_value)
        return self.prior_logit(position) + np.where(np.isnan(log_value), 0, evidence)

    def log_likelihood(self, log_value: np.ndarray, position: np.ndarray) -> float:
        """Mean over clicks of log P(x | t)."""
        prior = self.prior_logit(position)
        abandoned = -np.logaddexp(0, -prior) + _log_normal(log_value, self.abandoned_mean, self.deviation)
        kept = -np.logaddexp(0, prior) + _log_normal(log_value, self.kept_mean, self.deviation)
        return float(np.logaddexp(abandoned, kept).mean())


def estimate(values: np.ndarray, position: np.ndarray) -> np.ndarray:
    """p(fp) of every click from the `Mixture` that explains the measured ones best; it falls as the value rises.

    Args:
        values: `<float>[N]` ≥ 0; 0 counts as the smallest value above it; NaN = not measured, which leaves the prior.
        position: `<int>[N]` of the click in its session, from 0

    Returns:
        `<float64>[N]` in [0, 1]

    Raises:
        InputError: negative or infinite values, or values from which two kinds of click cannot be told: too few, all
            the same, two different ones, one kind too rare, or explained as well by a single one.
    """
    values, position = np.asarray(values, np.float64), np.asarray(position)
    is_measured = ~np.isnan(values)
    measured = values[is_measured]
    if (measured < 0).any() or np.isinf(measured).any():
        raise InputError("soft labels need satisfaction values of 0 or more and finite; correct data.satisfaction")
    positive = measured[measured > 0]
    if len(positive) < _LEAST_VALUES:
        raise _cannot_tell(f"only {len(positive)} clicks have one above 0, and {_LEAST_VALUES} are needed")
    log_value = np.log(np.maximum(values, positive.min()))
    mixture = fit(log_value[is_measured], position[is_measured])
    logit = mixture.posterior_logit(log_value, position)
    return np.exp(-np.logaddexp(0, -logit))


def fit(log_value: np.ndarray, position: np.ndarray) -> Mixture:
    """The mixture of greatest likelihood, by EM: means and deviation in closed form, the share by logistic regression.

    It starts from two clusters of the values, so that nothing but them decides where it ends.

    Args:
        log_value: `<float64>[N]` finite; position: `<int>[N]` from 0.

    Raises:
        InputError: the values do not fall into two kinds (see `estimate`).
    """
    if np.ptp(log_value) < 1e-9:
        raise _cannot_tell("they are all the same")
    if len(np.unique(log_value)) == 2:  # two normal distributions without width
        raise _cannot_tell("there are but two above 0, which a rule tells apart")
    # Here, since training reads this module for every method, and this import takes a second.
    from sklearn.cluster import KMeans

    cluster = KMeans(2, n_init=1, random_state=0).fit(log_value[:, np.newaxis])
    abandoned = np.where(cluster.labels_ == np.argmin(cluster.cluster_centers_), 0.9, 0.1)
    positions, which = np.unique(position, return_inverse=True)
    found, before = -np.inf, -np.inf
    for _ in range(_MOST_ROUNDS):
        mixture = _maximise(abandoned, log_value, positions, which)
        found = mixture.log_likelihood(log_value, position)
        if found - before < _TOLERANCE:
            break
        before = found
        abandoned = np.exp(-np.logaddexp(0, -mixture.posterior_logit(log_value, position)))
    share = abandoned.mean()
    if not _LEAST_SHARE <= share <= 1 - _LEAST_SHARE:
        raise _cannot_tell(f"one of two kinds of click would be {min(share, 1 - share):.2%} of all")
    single = float(_log_normal(log_value, log_value.mean(), log_value.std()).mean())
    # Bayes' information criterion: what three more parameters must explain.
    if (found - single) * len(log_value) < 1.5 * np.log(len(log_value)):
        raise _cannot_tell("a single normal distribution of their logarithm explains them as well")
    return mixture


def _maximise(abandoned: np.ndarray, log_value: np.ndarray, positions: np.ndarray, which: np.ndarray) -> Mixture:
    """The best mixture if click n is abandoned with probability abandoned[n]; its position is positions[which[n]]."""
    from sklearn.linear_model import LogisticRegression

    abandoned_mean, kept_mean = np.average(log_value, weights=abandoned), np.average(log_value, weights=1 - abandoned)
    squares = abandoned * (log_value - abandoned_mean) ** 2 + (1 - abandoned) * (log_value - kept_mean) ** 2
    # A click counts as abandoned and as kept, each with its probability; clicks at one position are one row each.
    feature = np.log1p(positions)[:, np.newaxis]
    weight = [np.bincount(which, w, len(positions)) for w in (abandoned, 1 - abandoned)]
    regression = LogisticRegression(penalty=None).fit(
        np.concatenate([feature, feature]),
        np.repeat([1, 0], len(positions)),
        np.concatenate(weight),
    )
    return Mixture(
        float(abandoned_mean),
        float(kept_mean),
        float(np.sqrt(squares.mean())),
        float(regression.intercept_[0]),
        float(regression.coef_[0, 0]),
    )


def _log_normal(x: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    return -0.5 * ((x - mean) / deviation) ** 2 - np.log(deviation) - 0.5 * np.log(2 * np.pi)


def _cannot_tell(why: str) -> InputError:
    return InputError(
        f"the satisfaction values do not tell abandoned clicks from kept ones: {why}; use another column as "
        "data.satisfaction, or a rule (data.false_positive_when) and another method than soft_labels"
    )
