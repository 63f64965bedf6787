"""Models that are told what was shown and not clicked: the exported answers are those of a small model worked out by hand,
who leaves the list out is answered as with an empty one, and every target is ranked with what was shown before it."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from fp_tfrs import schema
from fp_tfrs.config import EvaluationConfig, RunConfig
from fp_tfrs.data import preprocess
from fp_tfrs.data.sessions import Session
from fp_tfrs.errors import InputError
from fp_tfrs.evaluation import judging
from fp_tfrs.evaluation.answers import ask_model
from fp_tfrs.evaluation.evaluate import evaluate
from fp_tfrs.evaluation.slices import slice_targets
from fp_tfrs.evaluation.targets import list_targets
from fp_tfrs.evaluation.top_lists import part_sessions
from fp_tfrs.learning.model import SessionModel
from fp_tfrs.serving import expectations, exporting, probe, recommender
from fp_tfrs.serving.saved_model import Recommendations, SavedModel
from pipeline import cli

V, L, M, K = 30, 6, 3, 8
ITEMS = [f"item {n}" for n in range(V)]
POPULARITY = np.arange(V, 0, -1)
TABLE = np.random.default_rng(1).normal(0, 1, (V + 2, 4)).astype(np.float32)
WEIGHT = np.array([0.5, 0.3, 0.2], np.float32)  # of the unclicked items, by place: the order matters
NAME = "unclicked_item_id"


def config_values(xdm: dict | None) -> dict:
    data = {
        "source": {"format": "csv", "files": ["log.csv"]},
        "columns": {"session_id": "s", "user_id": "u", "feedback": {"skip": "bool"}},
        "false_positive_when": [{"column": "skip", "op": "==", "value": True}],
        "sessions": {"max_length": L},
        "unclicked": {"source": "false_positives", "max_items": M},
    }
    model = {"method": "vanilla", "tower": {"name": "stamp", "embedding_dim": 4}, "xdm": xdm}
    evaluation = {"resamples": 100}
    return {"name": "m", "data": data, "model": model, "serving": {"top_k": K}, "evaluation": evaluation}


class Model:
    """Scores by the sum of the inputs' embeddings less a weighted one of the unclicked items', if it is told of any."""

    repeat_offsets = None

    def __init__(self):
        self.table = tf.Variable(TABLE)

    def target_queries(self, batch):
        inputs = batch[schema.ITEM_INDEX]
        query = tf.reduce_sum(self._of(inputs), 1, keepdims=True)
        if schema.UNCLICKED_INDEX in batch:
            unclicked = batch[schema.UNCLICKED_INDEX]
            tf.debugging.assert_type(unclicked, tf.int32)
            tf.debugging.assert_equal(tf.shape(batch[schema.IS_UNCLICKED])[::2], tf.shape(unclicked))
            weight = tf.constant(WEIGHT)[: tf.shape(unclicked)[1]]
            query -= tf.einsum("bmd,m->bd", self._of(unclicked), weight)[:, tf.newaxis]
        return query

    def _of(self, index):
        return tf.gather(self.table, index) * tf.cast(index > 0, tf.float32)[..., tf.newaxis]

    def seen_offsets(self, batch):
        return None

    def candidates(self):
        return self.table[2:]


def draw_sessions(n: int, seed: int) -> list[Session]:
    """With entries that begin and end anywhere, of known items and others."""
    random = np.random.default_rng(seed)
    sessions = []
    for number in range(n):
        length = int(random.integers(2, 2 * L))
        entries = [(str(i), *sorted(random.integers(0, length + 1, 2).tolist())) for i in random.choice(ITEMS[:20], 5)]
        sessions.append(
            Session(
                f"{number:03d}",
                tuple(map(str, random.choice(ITEMS, length))),
                tuple(bool(flag) for flag in random.random(length) < 0.3),
                "u",
                unclicked=(*entries[:3], ("unknown", 0, length), *entries[3:]) if number % 4 else (),
            )
        )
    return sessions


def scores(items: list[str], unclicked: list[str]) -> np.ndarray:
    """float64 [V], by the definition: the known inputs, the last L; the first M known unclicked items, each once."""
    table = TABLE[2:].astype(float)
    used = [ITEMS.index(i) for i in items if i in ITEMS][-L:]
    if not used:
        return np.log1p(POPULARITY.astype(np.float32))
    places: list[int] = []
    for item in unclicked:
        if item in ITEMS and ITEMS.index(item) not in places:
            places.append(ITEMS.index(item))
    query = table[used].sum(0) - sum(w * table[place] for w, place in zip(WEIGHT, places))
    return table @ query


REQUESTS = [
    (ITEMS[:2], []),
    (ITEMS[:2], ITEMS[5:6]),
    (ITEMS[:2], ["unknown", ITEMS[5], "", ITEMS[5], ITEMS[6], ITEMS[5], ITEMS[7], ITEMS[8]]),
    (ITEMS[:2], [ITEMS[6], ITEMS[5]]),
    (ITEMS[:2], ["unknown"]),
    (ITEMS[3:5], [ITEMS[3]]),  # what was not clicked before may have been clicked since: the list is taken as it is
    ([], [ITEMS[5]]),  # popular items
    (["unknown"], [ITEMS[5]]),
    (ITEMS[: 3 * L], ITEMS[20:30]),
]


class Export:
    def __init__(self, directory: Path, xdm: dict | None, model: exporting.TrainedModel | None = None):
        run = RunConfig.model_validate(config_values(xdm))
        vocabulary = directory / schema.ITEM_VOCABULARY
        vocabulary.write_text("".join(f"{one}\n" for one in ITEMS))
        self.directory, self.run, self.sessions = directory / "export", run, draw_sessions(20, seed=7)
        exporting.export(self.directory, model or Model(), str(vocabulary), POPULARITY, run, "1", self.sessions)
        self.saved = SavedModel(self.directory)


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return Export(tmp_path_factory.mktemp("xdm"), {})


@pytest.fixture(scope="module")
def plain_export(tmp_path_factory):
    return Export(tmp_path_factory.mktemp("plain"), None)


def example(items: list[str], unclicked: list[str] | None) -> bytes:
    features = {schema.ITEM_ID: items} | ({} if unclicked is None else {schema.UNCLICKED_ITEM_ID: unclicked})
    feature = {
        name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode() for value in values]))
        for name, values in features.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def assert_answers(answer: Recommendations, expected: list[np.ndarray]):
    for item_id, score, of_all in zip(answer.item_id, answer.score, expected, strict=True):
        np.testing.assert_allclose(score, np.sort(of_all)[::-1][:K], atol=1e-4)
        np.testing.assert_allclose(of_all[[ITEMS.index(item) for item in item_id]], score, atol=1e-4)


def test_requests_with_unclicked_items_are_answered_by_the_definition(export):
    items, unclicked = map(list, zip(*REQUESTS))
    expected = [scores(*request) for request in REQUESTS]
    assert_answers(export.saved.recommend(items, unclicked_item_id=unclicked), expected)
    assert_answers(export.saved.recommend_examples([example(*request) for request in REQUESTS]), expected)
    for request, of_all in zip(REQUESTS, expected):
        assert_answers(export.saved.recommend(request[:1], unclicked_item_id=request[1:]), [of_all])


def test_ranks_are_those_of_the_scores(export):
    items, unclicked = map(list, zip(*REQUESTS))
    targets = ITEMS[5 : 5 + len(REQUESTS)]
    expected = [
        (of_all >= of_all[ITEMS.index(target)]).sum()
        for of_all, target in zip((scores(*request) for request in REQUESTS), targets)
    ]
    ranks = export.saved.rank(items, None, targets, unclicked_item_id=unclicked)
    np.testing.assert_array_equal(ranks, expected)
    assert (ranks != export.saved.rank(items, None, targets)).any()


def test_absent_means_none(export):
    items = [ITEMS[:2], ITEMS[3:5], [ITEMS[9]]]
    expected = [scores(one, []) for one in items]
    assert_answers(export.saved.recommend(items), expected)
    assert_answers(export.saved.recommend(items, unclicked_item_id=[[]] * 3), expected)
    assert_answers(export.saved.recommend_examples([example(one, None) for one in items]), expected)


def test_a_server_may_leave_the_list_out_as_the_signature_has_a_default(export):
    proto = saved_model_pb2.SavedModel.FromString((export.directory / "saved_model.pb").read_bytes())
    signatures = proto.meta_graphs[0].signature_def
    for name in ("recommend", "rank"):
        assert {input_: tf.make_ndarray(value).tolist() for input_, value in signatures[name].defaults.items()} == {
            NAME: [[b""]]
        }
    sent = {
        "item_id": np.array([ITEMS[:2], ITEMS[3:5]], object),
        "is_false_positive": np.zeros([2, 2], np.int64),
    }
    answer = export.saved.call("recommend", **sent)
    np.testing.assert_allclose(answer["score"][1], np.sort(scores(ITEMS[3:5], []))[::-1][:K], atol=1e-4)
    target = np.array([ITEMS[5], ITEMS[6]], object)
    np.testing.assert_array_equal(
        export.saved.call("rank", **sent, target=target)["rank"],
        export.saved.rank([ITEMS[:2], ITEMS[3:5]], None, [ITEMS[5], ITEMS[6]], unclicked_item_id=[[], []]),
    )
    with pytest.raises(InputError, match=f"takes is_false_positive, item_id, target, {NAME}; it was given is_false"):
        export.saved.call("rank", **sent)  # a target has no default
    with pytest.raises(tf.errors.InvalidArgumentError):  # neither a row for each session nor one for all
        export.saved.call("recommend", **sent, **{NAME: np.full([3, 1], "", object)})


@pytest.mark.matrix
def test_a_model_without_unclicked_items_takes_none(plain_export, capsys):
    for name, inputs in (("recommend", set()), ("rank", {"target"})):
        assert plain_export.saved.takes(name) == {"item_id", "is_false_positive"} | inputs
    answer = plain_export.saved.recommend([ITEMS[:2]], unclicked_item_id=[ITEMS[5:7]])
    assert_answers(answer, [scores(ITEMS[:2], [])])
    command = ["recommend", "--model", str(plain_export.directory), "--items", ITEMS[0], "--unclicked", ITEMS[1]]
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.endswith(f"takes no {NAME}; leave --unclicked out\n")


def test_the_command_line_passes_the_list_on(export, capsys):
    command = ["recommend", "--model", str(export.directory), "--items", ",".join(ITEMS[:2]), "-k", "5"]
    for options, unclicked in (([], []), (["--unclicked", ",".join(ITEMS[5:7])], ITEMS[5:7])):
        assert cli.main([*command, *options]) == 0
        printed = capsys.readouterr()
        best = np.argsort(-scores(ITEMS[:2], unclicked), kind="stable")[:5]
        assert [line.split("\t")[0] for line in printed.out.splitlines()] == [ITEMS[n] for n in best]
        assert printed.err == ""


@pytest.mark.e2e
def test_the_probe_passes_and_finds_an_export_that_reads_unclicked_items_otherwise(export, tmp_path):
    result = probe.examine(str(export.directory))
    assert result.is_ok, result
    model = Model()

    def queries(batch, change=lambda index: index):
        return model.target_queries(batch | {schema.UNCLICKED_INDEX: change(batch[schema.UNCLICKED_INDEX])}).numpy()

    scorer = expectations.Scorer(
        vocabulary=ITEMS,
        user_vocabulary=[],
        popularity_score=recommender.popularity_score(POPULARITY),
        candidates=model.candidates().numpy(),
        target_queries=queries,
        inputs="all",
        run=export.run,
    )
    assert len(expectations.expect(export.sessions, scorer)) == len(export.sessions) + 11
    fewer = export.run.data.unclicked.model_copy(update={"max_items": M - 1})
    data = export.run.data.model_copy(update={"unclicked": fewer})
    faults = {
        "none are read": {"target_queries": lambda batch: queries(batch, np.zeros_like)},
        "first shown first": {"target_queries": lambda batch: queries(batch, lambda index: index[..., ::-1])},
        "a shorter list": {"run": export.run.model_copy(update={"data": data})},
    }
    copy = shutil.copytree(export.directory, tmp_path / "export")
    for name, fault in faults.items():
        expected = expectations.expect(export.sessions, dataclasses.replace(scorer, **fault))
        expectations.write(copy / expectations.FILE_NAME, expected)
        result = probe.examine(str(copy))
        assert not result.is_ok and result.signature == "recommend" and "trained:" in result.message, name


@pytest.mark.matrix
def test_the_export_of_a_model_of_xdm_answers_as_trained(tmp_path):
    run = RunConfig.model_validate(config_values({}))
    model = SessionModel(run.model, V, 3, POPULARITY)
    random = np.random.default_rng(1)
    model.set_weights([random.normal(0, 0.6, w.shape) for w in model.get_weights()])
    Export(tmp_path, {}, model)
    result = probe.examine(str(tmp_path / "export"))
    assert result.is_ok, result


def test_each_target_is_ranked_with_what_was_shown_before_it():
    session = Session("s", ("x", "y", "c", "z"), (False,) * 4, "u1", unclicked=(("a", 2, 9), ("d", 2, 4), ("b", 1, 3)))
    quiet = Session("t", ("x", "y"), (False,) * 2, "u2")
    shown, lists = {}, {}

    class Spy:
        def rank_targets(self, requests):
            shown.update({(r.user_id, r.target): r.unclicked_item_id for r in requests})
            return np.ones(len(requests), np.int64)

        def answer(self, requests):
            lists.update({(r.user_id, len(r.item_id)): r.unclicked_item_id for r in requests})
            return Recommendations([["x"]] * len(requests), np.zeros((len(requests), 1)), ["1"] * len(requests))

    catalogue = ["x", "y", "c", "z"]
    targets = list_targets([session, quiet], catalogue)
    ask_model("the", Spy(), targets, part_sessions(targets), catalogue)
    expected = {1: ("b",), 2: ("a", "d", "b"), 3: ("a", "d")}  # of the first session, before its event of this number
    assert shown == {("u2", "y"): ()} | {("u1", session.item_id[n]): items for n, items in expected.items()}
    assert lists == {(user, n): expected[n] if user == "u1" else () for user, n in lists} and len(lists) == 2
    slices = slice_targets(targets, np.ones(4, np.int64))
    assert slices["unclicked_before"]["some"].tolist() == [True, True, True, False]
    assert slices["unclicked_before"]["none"].tolist() == [False, False, False, True]
    assert "unclicked_before" not in slice_targets(list_targets([quiet], catalogue), np.ones(4, np.int64))


def test_evaluation_without_unclicked_items_ranks_as_with_empty_lists(
    export, plain_export, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(judging.examples, "read_sessions", lambda folder, split: export.sessions)
    monkeypatch.setattr(preprocess, "preprocess", lambda *_: SimpleNamespace(n_bad_rows=1))
    (tmp_path / "run.yaml").write_text(json.dumps(config_values({})))
    (tmp_path / "log.csv").write_text("s,u,item_id,timestamp,skip\na,b,c,1,0\n")
    output = tmp_path / "metrics.json"

    def run(directory=export.directory, *options):
        files = {"--config": tmp_path / "run.yaml", "--events": tmp_path / "log.csv", "--output": output}
        pairs = [str(part) for pair in files.items() for part in pair]
        return cli.main(["evaluate", "--model", str(directory), *pairs, *options])

    assert run() == 0
    told = judging.read_report(str(output))
    assert run(export.directory, "--without-unclicked") == 0
    untold = judging.read_report(str(output))
    silent = [dataclasses.replace(session, unclicked=()) for session in export.sessions]
    expected = evaluate(export.saved, silent, export.sessions, ITEMS, 100, export.run.seed)
    assert untold.metrics == expected.metrics and untold.metrics["model"] != told.metrics["model"]
    assert untold.counts == told.counts and untold.metrics["popularity"] == told.metrics["popularity"]
    n_some = told.slices["unclicked_before"]["some"]["hr@20"].targets
    assert 0 < n_some < told.counts.targets
    none = [r.slices["unclicked_before"]["none"] for r in (told, untold)]
    assert none[0] == none[1] and untold.slices["unclicked_before"]["some"]["hr@20"].targets == n_some
    capsys.readouterr()
    assert run(plain_export.directory, "--without-unclicked") == 2
    assert "takes no unclicked_item_id" in capsys.readouterr().err.splitlines()[-1]


def test_a_model_is_not_evaluated_without_the_unclicked_items_that_it_ranks_by(export, tmp_path):
    data = export.run.data.model_copy(update={"unclicked": None})
    with pytest.raises(InputError, match=f"ranks by {NAME}, but the configuration has no data.unclicked"):
        judging.evaluate_export(str(export.directory), str(tmp_path), data, EvaluationConfig(), 1)
