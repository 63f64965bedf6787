"""A retrained model against the one that is served, whose catalogue is another: one list of targets, and a fair verdict."""

import numpy as np
import pytest
from test_evaluation import CATALOGUE, TRAIN, Model, make_sessions, plain_model

from fp_tfrs.evaluation.blessing import judge
from fp_tfrs.evaluation.evaluate import evaluate

NEW_ITEMS = {f"i{n}" for n in range(25, 40)}  # that came after the served model was trained
TEST = make_sessions(8, 600)


def served_model(item_id, is_false_positive, target, *context):
    """`plain_model`, to which the new items are unknown."""
    ranks = plain_model(item_id, is_false_positive, target, *context)
    return np.where([item in NEW_ITEMS for item in target], 0, ranks)


def missing(rank_fn, share):
    """The model, but for a share of the targets, at random, which it misses."""
    rng = np.random.default_rng(3)

    def rank(item_id, is_false_positive, target, *context):
        ranks = rank_fn(item_id, is_false_positive, target, *context)
        return np.where((rng.random(len(ranks)) < share) & (ranks > 0), len(CATALOGUE), ranks)

    return rank


def compare(retrained, served):
    report = evaluate(Model(retrained), TEST, TRAIN, CATALOGUE, 200, 5, last_blessed=Model(served))
    return report, judge(report, {})


@pytest.fixture(scope="module")
def retrained():
    return compare(plain_model, served_model)


def test_an_item_that_the_served_model_does_not_know_is_its_miss(retrained):
    report, verdict = retrained
    ours, served = (report.metrics[name]["mrr@20"] for name in ("model", "last_blessed"))
    assert ours.targets == served.targets
    expected = []
    for session in TEST:
        for position, item in enumerate(session.item_id):
            before = zip(session.item_id[:position], session.is_false_positive[:position], strict=True)
            if (
                item in CATALOGUE
                and not session.is_false_positive[position]
                and any(i in CATALOGUE and not fp for i, fp in before)
            ):
                rank = served_model([session.item_id[:position]], None, [item])[0]
                expected.append(1 / rank if 0 < rank <= 20 else 0)
    assert served.value == pytest.approx(np.mean(expected), rel=1e-9)
    assert ours.value > served.value + 0.01
    assert verdict.is_blessed


def test_new_items_do_not_excuse_what_was_lost_on_the_others(retrained):
    """The served model misses all targets of new items, and is still better by more than a point."""
    gained = retrained[0].differences["last_blessed"]["mrr@20"].difference
    lost = (gained + 0.02) / retrained[0].metrics["model"]["mrr@20"].value
    report, verdict = compare(missing(plain_model, lost), served_model)
    assert report.differences["last_blessed"]["mrr@20"].difference == pytest.approx(-0.02, abs=0.015)
    assert not verdict.is_blessed
    assert verdict.reasons[0].startswith("mrr@20 is worse than the last blessed model's")


def test_a_point_less_is_refused_and_the_same_model_again_is_not(retrained):
    mrr = retrained[0].metrics["model"]["mrr@20"].value
    report, verdict = compare(missing(plain_model, 0.01 / mrr), plain_model)
    assert report.differences["last_blessed"]["mrr@20"].difference == pytest.approx(-0.01, abs=0.004)
    assert not verdict.is_blessed
    assert compare(plain_model, plain_model)[1].is_blessed
