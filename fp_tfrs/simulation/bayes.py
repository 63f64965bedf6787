"""The Bayes-optimal ranker of a simulated log. In: a session's items and flags. Out: for each event the probability of
every item of a catalogue, given the events before it. No model that sees items and flags can rank better on average.

With b_j(z) = P(z_j = z | events before j), l the last item kept before j and the terms of `simulate.py`,
    P(i_j = i | events before j, event j is kept)  ∝  Σ_z b_j(z) P(i | z, l) keep(z, i)
    b_{j+1}(z')                                    ∝  Σ_z b_j(z) P(i_j | z, l) P(flag_j | z, i_j) P(z' | z)
It holds for whole sessions: one that was cut at its beginning has a history that nobody sees. And for logs without
slates only: what a user ignores makes the exact answer of a log with slates too large to compute (`slates.py`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fp_tfrs.config import DataConfig, SimulationConfig
from fp_tfrs.errors import InputError
from fp_tfrs.simulation.simulate import LogModel, build_model

# The rules that hold for the simulation's abandoned clicks alone: column, op, value.
_ABANDONED = {("dwell_s", "<", 10), ("skip", "==", True)}


class BayesFilter:
    """The exact filter over a model's tastes; items are rows of the model."""

    def __init__(self, model: LogModel) -> None:
        self.model = model
        self._kept_favourites = (1 - model.clickbait_share) * model.favourites * model.keep
        self._kept_clickbait = model.clickbait_share * model.clickbait * model.keep
        self._chapter_end = np.cumsum(np.bincount(model.chapter))

    def beliefs(self, item: np.ndarray, is_false_positive: np.ndarray) -> np.ndarray:
        """The taste's distribution before each event.

        Args:
            item: `<int64>[n]`, oldest first.
            is_false_positive: `<bool>[n]`.

        Returns:
            `<float64>[n, Z]`, row j given events 0 .. j − 1.
        """
        model = self.model
        before = np.empty((len(item), len(model.first_taste)))
        belief, last_kept = model.first_taste, None
        for j, (i, is_fp) in enumerate(zip(item.tolist(), is_false_positive.tolist(), strict=True)):
            before[j] = belief
            likelihood = self._click(i, last_kept) * (1 - model.keep[:, i] if is_fp else model.keep[:, i])
            belief = belief * likelihood
            belief = belief / belief.sum() @ model.next_taste
            last_kept = last_kept if is_fp else i
        return before

    def session_scores(self, item: np.ndarray, is_false_positive: np.ndarray) -> np.ndarray:
        """P(item of event j = i | events before j, event j is kept).

        Args:
            item: `<int64>[n]`, oldest first.
            is_false_positive: `<bool>[n]`.

        Returns:
            `<float64>[n, V]`, rows sum to 1.
        """
        model = self.model
        belief = self.beliefs(item, is_false_positive)
        # [n] chapter of the last item kept before each event, −1 = none; then [n, Z] the chapter that follows it.
        last = np.maximum.accumulate(np.where(is_false_positive, -1, np.arange(len(item))))
        last = np.concatenate([[-1], last[:-1]])
        chapter = np.where(last < 0, -1, model.chapter[item[last]])
        target = np.where(chapter[:, None] < 0, -1, model.next_chapter.T[chapter])
        follows = np.where(target < 0, 0.0, model.sequence_share)

        scores = belief @ self._kept_clickbait + (belief * (1 - follows)) @ self._kept_favourites
        sequence = (1 - model.clickbait_share) * belief * follows
        for j, z in zip(*np.nonzero(target >= 0), strict=True):
            end = self._chapter_end[target[j, z]]
            start = self._chapter_end[target[j, z] - 1] if target[j, z] else 0
            scores[j, start:end] += sequence[j, z] * model.within_chapter[start:end] * model.keep[z, start:end]
        return scores / scores.sum(axis=1, keepdims=True)

    def _click(self, i: int, last_kept: int | None) -> np.ndarray:
        """`<float64>[Z]` P(i | z, last_kept)."""
        model = self.model
        favourite = model.favourites[:, i]
        if last_kept is None:
            chosen = favourite
        else:
            target = model.next_chapter[:, model.chapter[last_kept]]
            follows = np.where(target < 0, 0.0, model.sequence_share)
            is_next = target == model.chapter[i]
            chosen = follows * is_next * model.within_chapter[i] + (1 - follows) * favourite
        return model.clickbait_share * model.clickbait[i] + (1 - model.clickbait_share) * chosen


def rankers(data: DataConfig, catalogue: Sequence[str]) -> dict[str, BayesBaseline]:
    """The best possible ranker of a log by its name in reports; none if the log isn't simulated, or has slates.

    Nor if the flags are not the simulation's: what others tell, such as of a shorter dwell time, makes better ranks possible.
    """
    config = data.source.simulation
    rules = {(rule.column, rule.op, rule.value) for rule in data.false_positive_when}
    if config is None or config.slate is not None or not rules or not rules <= _ABANDONED:
        return {}
    return {"bayes_optimal": BayesBaseline(config, catalogue)}


class BayesBaseline:
    """The filter of a simulated log as a ranker over a catalogue of item ids.

    Args:
        config: what the log was drawn from.
        catalogue: V item ids in the order of the scores.

    Raises:
        InputError: an item of the catalogue is not of this log, or the log has slates.
    """

    def __init__(self, config: SimulationConfig, catalogue: Sequence[str]) -> None:
        if config.slate is not None:
            raise InputError("the best possible ranking of a simulated log with slates is unknown; leave slate out")
        model = build_model(config.items, config.seed)
        self._filter = BayesFilter(model)
        self._row = {item_id: row for row, item_id in enumerate(model.item_ids)}
        self._catalogue = self._rows(catalogue)

    def session_scores(self, item_id: Sequence[str], is_false_positive: Sequence[bool]) -> np.ndarray:
        """Scores of the whole catalogue for every event of a session.

        Args:
            item_id: n item ids, oldest first, abandoned ones included; they need not be in the catalogue.
            is_false_positive: n flags.

        Returns:
            `<float64>[n, V]`, row j given events 0 .. j − 1: P(item j = i | those events, event j is kept).

        Raises:
            InputError: an item is not of this log.
        """
        rows = self._rows(item_id)
        return self._filter.session_scores(rows, np.asarray(is_false_positive, bool))[:, self._catalogue]

    def _rows(self, item_ids: Sequence[str]) -> np.ndarray:
        try:
            return np.array([self._row[item_id] for item_id in item_ids], np.int64)
        except KeyError as error:
            raise InputError(
                f"item {error.args[0]!r} is not in the simulated catalogue of {len(self._row):,} items; "
                "give the simulation's own sessions, items and seed"
            ) from None
