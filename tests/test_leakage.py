"""Nothing of a session from the target on, and nothing of a test session at all in training, may decide a rank."""

import collections
import dataclasses
import itertools
import sys

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from hypothesis import given, settings
from test_transform import VARIABLE

from fp_tfrs import schema
from fp_tfrs.config import RunConfig, SessionsConfig, SplitConfig
from fp_tfrs.data.examples import encode_session, write_shard
from fp_tfrs.data.sessions import StartHistogram, assign_split, cut_sessions
from fp_tfrs.evaluation import baselines
from fp_tfrs.evaluation.evaluate import evaluate
from fp_tfrs.evaluation.targets import list_targets
from fp_tfrs.serving.saved_model import Recommendations

N_ITEMS = 12
CATALOGUE = [f"i{n}" for n in range(N_ITEMS)]
SEEDS = st.integers(0, 2**32 - 1)
SPLITS = st.sampled_from(["time", "random"])


def draw_log(seed):
    """Users' events (second, item, abandoned). Items 12 to 14 are not in the catalogue; seconds may be equal."""
    rng = np.random.default_rng(seed)
    return [
        [
            (int(second), int(item), bool(is_fp))
            for second, item, is_fp in zip(
                rng.integers(0, 600, n), rng.integers(0, 15, n), rng.random(n) < 0.3, strict=True
            )
        ]
        for n in rng.integers(2, 10, rng.integers(3, 9))
    ]


class Spy:
    """Keeps what it is shown; every rank is 1."""

    def __init__(self):
        self.shown = []

    def rank_targets(self, requests):
        self.shown += [(r.user_id, r.item_id, r.is_false_positive, r.target) for r in requests]
        return np.ones(len(requests), np.int64)

    def answer(self, requests):
        self.shown += [(r.user_id, r.item_id, r.is_false_positive, None) for r in requests]
        return Recommendations([CATALOGUE] * len(requests), np.zeros((len(requests), N_ITEMS)), [""] * len(requests))


def make_sessions(log, prefix="", has_session_id=False):
    """Sessions of a log that is out of order, with repeated rows. An event's feedback is a number of its own."""
    sessions = []
    for number, events in enumerate(log):
        rows = [
            (float(second), f"{prefix}i{item}", is_fp, (100 * number + n,), "")
            for n, (second, item, is_fp) in enumerate(events)
        ]
        rows = [*rows[::-1], *rows[::3]]
        limits = SessionsConfig(gap_s=100, min_length=2)
        cut = cut_sessions(f"{prefix}u{number}", rows, limits, ("event",), has_session_id=has_session_id)
        # Users are named as sessions: what the spy sees must be traced back.
        sessions += [dataclasses.replace(s, user_id=s.session_id) for s in cut.sessions]
    return sessions


def has_targets(sessions):
    known = [
        [i in CATALOGUE and not is_fp for i, is_fp in zip(s.item_id, s.is_false_positive, strict=True)]
        for s in sessions
    ]
    return any(sum(row) >= 2 for row in known)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(SEEDS)
def test_a_model_is_shown_the_events_before_the_target_and_no_other(seed):
    sessions = make_sessions(draw_log(seed))
    if not has_targets(sessions):
        return
    spy = Spy()
    evaluate(spy, sessions, sessions[:1], CATALOGUE, 2, 0)
    of_user = {s.session_id: s for s in sessions}
    assert any(target for *_, target in spy.shown) and any(target is None for *_, target in spy.shown)
    for user, items, flags, target in spy.shown:
        session, n_before = of_user[user], len(items)
        assert n_before < len(session.item_id)
        assert tuple(items) == session.item_id[:n_before] and tuple(flags) == session.is_false_positive[:n_before]
        assert target is None or target == session.item_id[n_before]
        assert all(second <= session.timestamp_s[n_before] for second in session.timestamp_s[:n_before])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(SEEDS, st.integers(0, 8))
def test_what_comes_later_changes_no_score_of_a_baseline(seed, n_before):
    log, rng = draw_log(seed), np.random.default_rng(seed)
    train, test = make_sessions(log[2:]), make_sessions(log[:2])
    rankers = baselines.fit(train, CATALOGUE).rankers
    for session in test:
        items, flags = list(session.item_id), list(session.is_false_positive)
        n_later = max(len(items) - n_before, 0)
        other_items = items[:n_before] + [f"i{rng.integers(15)}" for _ in range(n_later)]
        other_flags = flags[:n_before] + [bool(rng.random() < 0.5) for _ in range(n_later)]
        for ranker in rankers.values():
            first, second = ranker.session_scores(items, flags), ranker.session_scores(other_items, other_flags)
            np.testing.assert_array_equal(first[: n_before + 1], second[: n_before + 1])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(SEEDS)
def test_baselines_know_the_training_sessions_alone_in_whatever_order(seed):
    sessions = make_sessions(draw_log(seed))
    train, test = sessions[2:], sessions[:2]
    report = evaluate(Spy(), test, train, CATALOGUE, 2, 0) if has_targets(test) else None
    learned, again = (baselines.fit(some, CATALOGUE) for some in (train, train[::-1]))
    assert learned.item_counts.sum() == sum(
        i in CATALOGUE and not is_fp for s in train for i, is_fp in zip(s.item_id, s.is_false_positive, strict=True)
    )
    for name, ranker in learned.rankers.items():
        for s in test:
            scores = ranker.session_scores(s.item_id, s.is_false_positive)
            np.testing.assert_array_equal(scores, again.rankers[name].session_scores(s.item_id, s.is_false_positive))
    if report:
        assert report == evaluate(Spy(), test[::-1], train[::-1], CATALOGUE, 2, 0)


def divide(sessions, by, seed=0):
    """Split → its sessions."""
    histogram = StartHistogram()
    for s in sessions:
        histogram.add(s.timestamp_s[0])
    split = SplitConfig(by=by, valid=0.2, test=0.3)
    cuts_s = histogram.find_cuts(split) if by == "time" else None
    parts = {name: [] for name in schema.SPLITS}
    for s in sessions:
        parts[assign_split(s.session_id, s.timestamp_s[0], split, seed, cuts_s)].append(s)
    return parts


@settings(max_examples=100, deadline=None, derandomize=True)
@given(SEEDS, SPLITS, st.booleans())
def test_no_event_is_in_two_splits_and_no_target_is_one_of_training(seed, by, has_session_id):
    sessions = make_sessions(draw_log(seed), has_session_id=has_session_id)
    parts = divide(sessions, by, seed)
    events = {name: [n for s in part for n in s.feedback["event"]] for name, part in parts.items()}
    together = [n for numbers in events.values() for n in numbers]
    assert len(set(together)) == len(together)
    assert sorted(together) == sorted(n for s in sessions for n in s.feedback["event"])
    for name in (schema.VALID, schema.TEST):
        if has_targets(parts[name]):
            found = list_targets(parts[name], CATALOGUE)
            judged = {
                found.sessions[s].feedback["event"][p] for s, p in zip(found.session, found.position, strict=True)
            }
            assert judged and judged <= set(events[name]) and not judged & set(events[schema.TRAIN])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(SEEDS, st.booleans())
def test_by_time_training_sessions_begin_before_every_other(seed, has_session_id):
    parts = divide(make_sessions(draw_log(seed), has_session_id=has_session_id), "time")
    starts = {name: [s.timestamp_s[0] for s in part] for name, part in parts.items()}
    assert max(starts["train"], default=-1) < min([*starts["valid"], *starts["test"]], default=601)
    assert max([*starts["train"], *starts["valid"]], default=-1) < min(starts["test"], default=601)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(SEEDS, st.booleans())
def test_at_random_a_session_stays_in_its_split_whatever_else_is_in_the_log(seed, has_session_id):
    """A log that grows moves no test session into training; neither does what happens in the session."""
    log = draw_log(seed)
    sessions = make_sessions(log, has_session_id=has_session_id)
    parts = divide(sessions, "random", seed)
    split_of = {s.session_id: name for name, part in parts.items() for s in part}
    later = [dataclasses.replace(s, timestamp_s=tuple(t + 1000 for t in s.timestamp_s)) for s in sessions[::-2]]
    for some in (sessions[::-1], sessions[1::2], later, make_sessions(log[:-1], has_session_id=has_session_id)):
        for name, part in divide(some, "random", seed).items():
            assert all(split_of[s.session_id] == name for s in part)


def transform(parts, folder):
    """What the pipeline's own node of TFX's Transform makes of the splits: folders of its graph and of its examples."""
    from tensorflow_transform.tf_metadata import schema_utils
    from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
    from tfx.types import artifact_utils

    from pipeline.pipeline import create_pipeline

    values = {
        "name": "tiny",
        "data": {
            "source": {"format": "csv", "files": ["not read"]},
            "columns": {"session_id": "session"},
            "min_item_support": 2,
        },
        "model": {"method": "vanilla"},
    }
    run = RunConfig.model_validate(values)
    (node,) = [node for node in create_pipeline(run, str(folder)).components if node.id == "Transform"]
    found = {}
    for key, channel in {**node.inputs, **node.outputs}.items():
        found[key] = channel.type()
        found[key].uri = str(folder / key)
    for name, part in parts.items():
        write_shard(str(folder / "examples"), name, 0, 1, [encode_session(s, {"event": "int"}) for s in part])
    found["examples"].split_names = artifact_utils.encode_split_names(list(parts))
    (folder / "schema").mkdir()
    (folder / "schema" / "schema.pbtxt").write_text(
        text_format.MessageToString(schema_utils.schema_from_feature_spec(VARIABLE))
    )
    context = BaseBeamExecutor.Context(
        beam_pipeline_args=run.beam.arguments(), tmp_dir=str(folder / "tmp"), unique_id="1"
    )
    node.executor_spec.executor_class(context).Do(
        *({key: [found[key]] for key in channels} for channels in (node.inputs, node.outputs)), node.exec_properties
    )
    return folder / "transform_graph", folder / "transformed_examples"


@pytest.mark.e2e
def test_the_vocabulary_is_of_the_training_sessions_of_500_logs(tmp_path, monkeypatch, record_figure):
    """Every log has items of its own, so that one run of Transform answers for all; half are divided by time."""
    monkeypatch.setattr(sys, "argv", sys.argv[:1])  # TFX takes the process's arguments for absl's flags
    parts = {name: [] for name in schema.SPLITS}
    for number, by in zip(range(500), itertools.cycle(["time", "random"])):
        for name, part in divide(make_sessions(draw_log(number), f"{number}:"), by).items():
            parts[name] += part
    graph, transformed = transform(parts, tmp_path)
    counts = {name: collections.Counter(i for s in part for i in s.item_id) for name, part in parts.items()}
    in_training, elsewhere = counts[schema.TRAIN], counts[schema.VALID] + counts[schema.TEST]
    kept = sorted((i for i in in_training if in_training[i] >= 2), key=lambda i: (in_training[i], i), reverse=True)
    vocabulary = (graph / "transform_fn" / "assets" / schema.ITEM_VOCABULARY).read_text().splitlines()
    strangers = {i for i in elsewhere if i not in in_training}
    rare = {i for i in elsewhere if in_training[i] < 2 <= in_training[i] + elsewhere[i]} - strangers
    leaked = len(set(vocabulary) & (strangers | rare))
    figure = f"500 logs, {leaked} of {len(strangers)} items of other splits alone and {len(rare)} rare in training"
    record_figure("leakage: the vocabulary is of the training sessions", figure, "500 logs, none of these")
    assert vocabulary == kept and not leaked and min(len(strangers), len(rare)) > 100
    index = {item: schema.FIRST_ITEM_INDEX + n for n, item in enumerate(vocabulary)}
    for name, part in parts.items():
        files = [str(path) for path in (transformed / f"Split-{name}").iterdir()]
        rows = map(tf.train.Example.FromString, tf.data.TFRecordDataset(files, "GZIP").as_numpy_iterator())
        features = [row.features.feature for row in rows]
        found = {
            f[schema.SESSION_ID].bytes_list.value[0].decode(): f[schema.ITEM_INDEX].int64_list.value for f in features
        }
        assert found == {s.session_id: [index.get(i, schema.OOV_INDEX) for i in s.item_id] for s in part}


@pytest.mark.long
@pytest.mark.parametrize(
    ("check", "drawn"),
    [
        (test_a_model_is_shown_the_events_before_the_target_and_no_other, [SEEDS]),
        (test_what_comes_later_changes_no_score_of_a_baseline, [SEEDS, st.integers(0, 8)]),
        (test_baselines_know_the_training_sessions_alone_in_whatever_order, [SEEDS]),
        (test_no_event_is_in_two_splits_and_no_target_is_one_of_training, [SEEDS, SPLITS, st.booleans()]),
        (test_by_time_training_sessions_begin_before_every_other, [SEEDS, st.booleans()]),
        (test_at_random_a_session_stays_in_its_split_whatever_else_is_in_the_log, [SEEDS, st.booleans()]),
    ],
)
def test_500_logs(check, drawn, record_figure):
    seen = set()

    def count_and_check(values):
        seen.add(values)
        check.hypothesis.inner_test(*values)

    settings(max_examples=500, deadline=None, derandomize=True)(given(st.tuples(*drawn))(count_and_check))()
    name = check.__name__.removeprefix("test_").replace("_", " ")
    record_figure(f"leakage: {name}", f"{len(seen)} logs", "500 logs, none against it")
    assert len(seen) >= 450  # a few are drawn twice
