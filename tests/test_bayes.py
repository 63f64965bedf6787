"""The Bayes-optimal ranker: equal to a sum over all paths of tastes, calibrated, and beaten by nobody."""

import itertools

import numpy as np
import pytest

from fp_tfrs.config import DataConfig, SimulationConfig
from fp_tfrs.errors import InputError
from fp_tfrs.simulation.bayes import BayesBaseline, BayesFilter, rankers
from fp_tfrs.simulation.simulate import LogModel, build_model, draw_blocks


def _random_model(rng: np.random.Generator) -> LogModel:
    """Three tastes and seven items in chapters {0}, {1, 2}, {3, 4, 5}, {6}, some of them unknown to some tastes."""
    chapter = np.array([0, 1, 1, 2, 2, 2, 3])
    within = rng.random(7)
    return LogModel(
        first_taste=rng.dirichlet(np.ones(3)),
        next_taste=rng.dirichlet(np.ones(3), 3),
        next_chapter=np.array([[1, 2, 0, -1], [-1, 3, -1, 1], [2, -1, 3, 0]]),
        chapter=chapter,
        within_chapter=within / np.bincount(chapter, within)[chapter],
        favourites=rng.dirichlet(np.ones(7), 3),
        clickbait=rng.dirichlet(np.ones(7)),
        keep=rng.random((3, 7)),
        sequence_share=0.7,
        clickbait_share=0.2,
        item_ids=tuple("abcdefg"),
    )


def _click(model: LogModel, z: int, i: int, last_kept: int | None) -> float:
    """P(i | z, last kept item), word for word from the docstring of `simulate.py`."""
    share, step = 0.0, 0.0
    if last_kept is not None:
        target = model.next_chapter[z, model.chapter[last_kept]]
        if target >= 0:
            share = model.sequence_share
            step = model.within_chapter[i] if model.chapter[i] == target else 0.0
    normal = share * step + (1 - share) * model.favourites[z, i]
    return model.clickbait_share * model.clickbait[i] + (1 - model.clickbait_share) * normal


def _joint(model: LogModel, items: list[int], flags: list[bool]) -> float:
    """P(these items with these flags): the sum over every path of tastes."""
    total = 0.0
    for path in itertools.product(range(len(model.first_taste)), repeat=len(items)):
        p, last_kept = 1.0, None
        for j, (z, i, is_fp) in enumerate(zip(path, items, flags, strict=True)):
            p *= model.next_taste[path[j - 1], z] if j else model.first_taste[z]
            p *= _click(model, z, i, last_kept) * (1 - model.keep[z, i] if is_fp else model.keep[z, i])
            last_kept = last_kept if is_fp else i
        total += p
    return total


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_the_sum_over_all_paths(seed):
    rng = np.random.default_rng(seed)
    model = _random_model(rng)
    items, flags = rng.integers(7, size=5).tolist(), (rng.random(5) < 0.4).tolist()
    scores = BayesFilter(model).session_scores(np.array(items), np.array(flags))
    for j in range(5):
        joint = np.array([_joint(model, [*items[:j], i], [*flags[:j], False]) for i in range(7)])
        np.testing.assert_allclose(scores[j], joint / joint.sum(), rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def simulated():
    """(items, flags) of 1,200 sessions of the default model, and the filter's scores for each."""
    model = build_model(1_000, 17)
    block = next(draw_blocks(model, 1_200, 17))
    cuts = np.flatnonzero(np.diff(block.session)) + 1
    sessions = list(zip(np.split(block.item, cuts), np.split(~block.is_kept, cuts), strict=True))
    bayes = BayesFilter(model)
    return model, sessions, [bayes.session_scores(*session) for session in sessions]


def test_probabilities_are_calibrated(simulated):
    _, sessions, scores = simulated
    p = np.concatenate([s[~flags] for s, (_, flags) in zip(scores, sessions, strict=True)])
    target = np.concatenate([items[~flags] for items, flags in sessions])
    rows = np.arange(len(target))
    best = p.max(axis=1)
    # Given its history each hit is an independent draw with this very probability, so the variance is known.
    hits = (p.argmax(axis=1) == target).sum()
    assert abs(hits - best.sum()) < 3 * np.sqrt((best * (1 - best)).sum())
    entropy = -(p * np.log(p)).sum(axis=1)
    variance = (p * np.log(p) ** 2).sum(axis=1) - entropy**2
    assert abs((-np.log(p[rows, target]) - entropy).sum()) < 3 * np.sqrt(variance.sum())


def _reciprocal_ranks(scores, items, flags):
    """Of the kept events that have a kept one before them, 0 beyond rank 20; a list of one array per session."""
    is_target = ~flags & (np.cumsum(~flags) > 1)
    own = scores[np.arange(len(items)), items][:, None]
    rank = (scores >= own).sum(axis=1)[is_target]
    return np.where(rank <= 20, 1 / rank, 0.0)


def test_nobody_who_sees_less_ranks_better(simulated):
    model, sessions, scores = simulated
    bayes = BayesFilter(model)

    def without_false_positives(items, flags):
        kept = np.append(items[~flags], 0)  # one more, for what follows the last
        n_before = np.cumsum(~flags) - ~flags
        return bayes.session_scores(kept, np.zeros(len(kept), bool))[n_before]

    def without_feedback(items, flags):
        return bayes.session_scores(items, np.zeros(len(items), bool))

    def popular(items, flags):
        return np.broadcast_to(model.favourites.sum(axis=0), (len(items), len(model.item_ids)))

    best = [_reciprocal_ranks(s, *session) for s, session in zip(scores, sessions, strict=True)]
    assert 0.15 < np.concatenate(best).mean() < 0.35
    for rival in (without_false_positives, without_feedback, popular):
        ranks = [_reciprocal_ranks(rival(*session), *session) for session in sessions]
        lead = np.array([mine.sum() - theirs.sum() for mine, theirs in zip(best, ranks, strict=True)])
        assert lead.mean() > -2 * lead.std() / np.sqrt(len(lead)), rival.__name__
    assert np.concatenate(ranks).mean() < 0.3 * np.concatenate(best).mean()  # popularity is far below


def test_a_baseline_scores_its_catalogue_in_the_catalogues_order(simulated):
    model, sessions, scores = simulated
    rows = np.random.default_rng(0).permutation(1_000)[:900]
    baseline = BayesBaseline(SimulationConfig(), [model.item_ids[row] for row in rows])
    items, flags = sessions[0]
    got = baseline.session_scores(tuple(model.item_ids[i] for i in items), tuple(flags.tolist()))
    np.testing.assert_array_equal(got, scores[0][:, rows])


def test_items_of_another_log_are_refused():
    with pytest.raises(InputError, match="item 'item_00100' is not in the simulated catalogue of 100 items"):
        BayesBaseline(SimulationConfig(items=100), ["item_00099", "item_00100"])
    baseline = BayesBaseline(SimulationConfig(items=100), ["item_00099"])
    with pytest.raises(InputError, match="'teapot'"):
        baseline.session_scores(["teapot"], [False])


def _data(simulation, *rules):
    source = {"format": "simulated", "simulation": simulation} if simulation else {"format": "csv", "files": ["a.csv"]}
    rules = [dict(zip(("column", "op", "value"), rule, strict=True)) for rule in rules]
    columns = {"session_id": "session_id", "feedback": {"dwell_s": "float", "skip": "bool"}}
    return DataConfig(source=source, columns=columns, false_positive_when=rules)


SHORT, SKIPPED = ("dwell_s", "<", 10), ("skip", "==", True)


def test_only_a_log_without_slates_has_a_best_ranker():
    with_slates = SimulationConfig(items=100, slate=5)
    assert list(rankers(_data(SimulationConfig(items=100), SHORT), ["item_00099"])) == ["bayes_optimal"]
    assert rankers(_data(with_slates, SHORT), ["item_00099"]) == rankers(_data(None, SHORT), ["item_00099"]) == {}
    with pytest.raises(InputError, match="with slates is unknown"):
        BayesBaseline(with_slates, ["item_00099"])


@pytest.mark.parametrize(
    ("rules", "is_simulations"),
    [
        ([SKIPPED], True),
        ([SHORT, SKIPPED], True),
        ([], False),
        ([("dwell_s", "<", 2)], False),
        ([SHORT, ("dwell_s", "<", 12)], False),
        ([("skip", "==", False)], False),
    ],
)
def test_nobody_is_called_the_best_where_the_flags_are_not_the_simulations(rules, is_simulations):
    assert bool(rankers(_data(SimulationConfig(items=100), *rules), ["item_00099"])) == is_simulations
