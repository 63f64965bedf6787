"""Exports of models that see more than kept items: users, histories, marks, a satisfaction head, a penalty, offsets.
They answer by the definition, worked out here from the model's tables, and the probe finds what departs from it."""

import collections
import dataclasses
import functools
import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from fp_tfrs import schema
from fp_tfrs.config import EvaluationConfig, RunConfig
from fp_tfrs.data.sessions import Session
from fp_tfrs.errors import InputError
from fp_tfrs.evaluation import judging
from fp_tfrs.learning.model import SessionModel
from fp_tfrs.methods import resolve
from fp_tfrs.serving import expectations, exporting, probe, recommender
from fp_tfrs.serving.saved_model import SavedModel
from pipeline import cli

V, U, L, H, K = 30, 4, 6, 3, 8
ITEMS = [f"item {n}" for n in range(V)]
USERS = [f"user ü{n}" for n in range(U)]
POPULARITY = np.arange(V, 0, -1)
POPULAR = np.log1p(POPULARITY.astype(np.float32))
BETA, SATISFACTION_BETA = 0.7, 0.4
STAMP = {"name": "stamp", "embedding_dim": 8}
SDM = {"name": "sdm", "embedding_dim": 8, "n_heads": 2, "has_users": True, "has_history": True}
MODELS = {
    "users_and_histories": {"method": "fp_simple", "tower": SDM},
    "joined_users": {"method": "fp_adametric", "user_concat": "gate", "tower": STAMP},
    "marks": {"method": "skip_aware", "tower": STAMP},
    "satisfaction_and_penalty": {
        "method": "entire_space",
        "penalty": BETA,
        "loss": {"satisfaction_beta": SATISFACTION_BETA, "satisfaction_dim": 3},
        "tower": STAMP,
    },
    "repeat_offsets": {"method": "two_queries", "repeat_offsets": True, "cosine_scale": 3.0, "tower": STAMP},
}


class Asked(NamedTuple):
    """One request."""

    items: list[str]
    flags: list[int]
    user: str = ""
    history: list[str] = []  # noqa: RUF012 (never changed)


def run_config(model: dict) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "m",
            "data": {
                "source": {"format": "simulated", "simulation": {}},
                "columns": {"session_id": "s", "user_id": "u", "feedback": {"skip": "bool", "dwell": "float"}},
                "false_positive_when": [{"column": "skip", "op": "==", "value": True}],
                "sessions": {"max_length": L},
                "satisfaction": {"column": "dwell"},
                "history": {"max_items": H},
                "unclicked": {"source": "false_positives"},
            },
            "model": model,
            "serving": {"top_k": K},
        }
    )


def draw(n: int, seed: int) -> list[Asked]:
    random = np.random.default_rng(seed)

    def choose(values, size):
        return [str(value) for value in random.choice(values, size)]

    asked = []
    for _ in range(n):
        items = choose([*ITEMS, "unknown", ""], random.integers(0, 2 * L))
        flags = [int(flag) for flag in random.random(len(items)) < 0.4]
        user = choose([*USERS, "stranger", ""], 1)[0]
        asked.append(Asked(items, flags, user, choose([*ITEMS[:9], "unknown"], random.integers(0, 2 * H + 2))))
    return asked


ODD = [
    Asked([], []),
    Asked([], [], USERS[1], ITEMS[:2]),
    Asked(ITEMS[3:5], [0, 1], USERS[1], ["unknown"]),
    Asked(ITEMS[3:5], [0, 1], "stranger", ITEMS[7:9]),
    Asked(ITEMS[3:6], [1, 1, 1], USERS[0], ITEMS[:1]),  # abandoned only
    Asked([ITEMS[3], "unknown"], [1, 1], USERS[0]),
    Asked(["unknown", ""], [0, 1], USERS[0], ITEMS[:1]),
    Asked(
        ITEMS[: 3 * L], [1, 0] + [0] * (3 * L - 2), USERS[2], ITEMS[20:22]
    ),  # the abandoned one is out of the tower's sight
    Asked(ITEMS[:2], [0, 0], USERS[2], ["unknown", ITEMS[9], "unknown", ITEMS[9], ITEMS[5], ITEMS[9], *ITEMS[10:20]]),
]


class Export:
    """A model with drawn weights, what was exported of it, and its answers by definition."""

    def __init__(self, directory: Path, model: dict):
        self.run = run_config(model)
        has_users = self.run.model.has_users
        self.model = SessionModel(self.run.model, V, 3, POPULARITY, U if has_users else 0)
        random = np.random.default_rng(1)
        self.model.set_weights([random.normal(0, 0.6, w.shape) for w in self.model.get_weights()])
        paths = []
        for name, ids in ((schema.ITEM_VOCABULARY, ITEMS), (schema.USER_VOCABULARY, USERS)):
            paths.append(str(directory / name))
            Path(paths[-1]).write_text("".join(f"{one}\n" for one in ids))
        self.sessions = [
            Session(str(n), tuple(a.items), tuple(map(bool, a.flags)), a.user, history_item_id=tuple(a.history))
            for n, a in enumerate(draw(15, seed=7))
        ]
        self.directory = directory / "export"
        users_path = paths[1] if has_users else None
        exporting.export(
            self.directory, self.model, paths[0], POPULARITY, self.run, "1", self.sessions, users_path, self.sessions
        )
        self.saved = SavedModel(self.directory)

    def scores(self, requests: list[Asked]) -> np.ndarray:
        """<float>[n, V]: s · E_i of the last session embedding; what satisfaction and penalty add; or popularity."""
        is_tp_only = resolve(self.run.model).inputs == "tp"
        events = [[(ITEMS.index(i), fp) for i, fp in zip(a.items, a.flags) if i in ITEMS] for a in requests]
        used = [[e for e in known if not (is_tp_only and e[1])][-L:] for known in events]
        batch = {
            schema.ITEM_INDEX: np.zeros([len(requests), L], np.int32),
            schema.INPUT_IS_FP: np.zeros([len(requests), L], bool),
            schema.USER_INDEX: np.array([USERS.index(a.user) + 1 if a.user in USERS else 0 for a in requests]),
            schema.HISTORY_INDEX: np.zeros([len(requests), H], np.int32),
        }
        for row, (asked, inputs) in enumerate(zip(requests, used)):
            for column, (item, is_fp) in enumerate(inputs):
                batch[schema.ITEM_INDEX][row, column], batch[schema.INPUT_IS_FP][row, column] = item + 2, is_fp
            past = []
            for item in asked.history:
                if item in ITEMS and ITEMS.index(item) + 2 not in past:
                    past.append(ITEMS.index(item) + 2)
            batch[schema.HISTORY_INDEX][row, : len(past[:H])] = past[:H]
        sessions = self.model.session_embeddings({name: tf.constant(value) for name, value in batch.items()}).numpy()
        last = sessions[np.arange(len(requests)), [max(len(inputs) - 1, 0) for inputs in used]].astype(float)
        items = self.model.items.item_embeddings().numpy().astype(float)
        if self.run.model.cosine_scale is not None:
            items *= self.run.model.cosine_scale / np.linalg.norm(items, axis=1, keepdims=True)
        scores = last @ items.T
        head = self.model.task.satisfaction
        if head is not None:
            of_session = last @ head.session_kernel.numpy() + head.session_constant.numpy()
            of_item = items @ head.item_kernel.numpy() + head.item_constant.numpy()
            scores += SATISFACTION_BETA * (of_session @ of_item.T + head.item_bias.numpy())
        if self.run.model.penalty:
            for row, known in enumerate(events):
                abandoned = [items[item] for item, is_fp in known if is_fp]
                if abandoned:
                    scores[row] -= BETA * np.maximum(0, items @ np.mean(abandoned, 0))
        if self.model.repeat_offsets is not None:
            of_kept, of_abandoned = self.model.repeat_offsets.offsets.numpy()[0]
            for row, inputs in enumerate(used):
                for item in range(V):
                    scores[row, item] += of_kept * ((item, 0) in inputs) + of_abandoned * ((item, 1) in inputs)
        return np.where([[bool(inputs)] for inputs in used], scores, POPULAR)


# Each is exported, which takes seconds: one that is told all there is stands for the others.
@pytest.fixture(
    scope="module",
    params=[name if name == "users_and_histories" else pytest.param(name, marks=pytest.mark.matrix) for name in MODELS],
)
def export(request, tmp_path_factory):
    return Export(tmp_path_factory.mktemp(request.param), MODELS[request.param])


def columns(requests: list[Asked]) -> tuple:
    return tuple(zip(*requests)) if requests else ([],) * 4


def example(asked: Asked, *without: str) -> bytes:
    def texts(values):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value.encode() for value in values]))

    features = {
        schema.ITEM_ID: texts(asked.items),
        schema.IS_FALSE_POSITIVE: tf.train.Feature(int64_list=tf.train.Int64List(value=asked.flags)),
        schema.USER_ID: texts([asked.user] if asked.user else []),
        schema.HISTORY_ITEM_ID: texts(asked.history),
    }
    kept = {name: feature for name, feature in features.items() if name not in without}
    return tf.train.Example(features=tf.train.Features(feature=kept)).SerializeToString()


def assert_answers(answer, scores: np.ndarray):
    """The K best of the scores, up to 1e-5 of the largest one."""
    assert len(answer.item_id) == len(scores)
    for item_id, score, expected in zip(answer.item_id, answer.score, scores):
        tolerance = 1e-5 * max(1, np.abs(expected).max())
        np.testing.assert_allclose(score, np.sort(expected)[::-1][:K], rtol=0, atol=tolerance)
        np.testing.assert_allclose(expected[[ITEMS.index(i) for i in item_id]], score, rtol=0, atol=tolerance)
        assert len(set(item_id)) == K


def test_many_requests_in_a_batch_are_answered_by_the_definition(export):
    requests = ODD + draw(200, seed=1)
    scores = export.scores(requests)
    assert_answers(export.saved.recommend(*columns(requests)), scores)
    assert_answers(export.saved.recommend_examples([example(asked) for asked in requests]), scores)


def test_a_request_alone_is_answered_by_the_definition(export):
    for asked, scores in zip(ODD, export.scores(ODD)):
        assert_answers(export.saved.recommend(*columns([asked])), scores[np.newaxis])
        assert_answers(export.saved.recommend_examples([example(asked)]), scores[np.newaxis])
    assert export.saved.recommend(*columns([])).item_id == export.saved.recommend_examples([]).item_id == []


def test_ranks_are_those_of_the_scores(export):
    requests = ODD + draw(200, seed=2)
    targets = [str(item) for item in np.random.default_rng(3).choice([*ITEMS, "unknown"], len(requests))]
    items, flags, users, histories = columns(requests)
    ranks = export.saved.rank(items, flags, targets, users, histories)
    for scores, target, rank in zip(export.scores(requests), targets, ranks, strict=True):
        if target == "unknown":
            assert rank == 0
            continue
        column = ITEMS.index(target)
        above = np.delete(scores, column) - scores[column]
        tolerance = 0 if np.array_equal(scores, POPULAR) else 1e-5 * max(1, np.abs(scores).max())
        assert 1 + (above >= tolerance).sum() <= rank <= 1 + (above >= -tolerance).sum()


def test_who_gives_no_users_and_histories_is_answered_as_a_stranger(export):
    nameless = [asked._replace(user="", history=[]) for asked in ODD]
    scores = export.scores(nameless)
    items, flags, _, _ = columns(nameless)
    assert_answers(export.saved.recommend(items, flags), scores)
    without = schema.USER_ID, schema.HISTORY_ITEM_ID
    assert_answers(export.saved.recommend_examples([example(asked, *without) for asked in ODD]), scores)
    # A server needs no input for them either: the signatures have defaults, one row for all sessions.
    two = {"item_id": np.array([ITEMS[3:5]] * 2, object), "is_false_positive": np.array([[0, 1]] * 2)}
    answer = export.saved.call("recommend", **two)["score"]
    np.testing.assert_allclose(answer, [np.sort(scores[3])[::-1][:K]] * 2, rtol=1e-5, atol=1e-5)
    targets = [ITEMS[n] for n in range(len(ODD))]
    expected = export.saved.rank(items, flags, targets, *columns(nameless)[2:])
    np.testing.assert_array_equal(export.saved.rank(items, flags, targets), expected)


def test_examples_without_flags_are_of_kept_items_and_empty_ones_get_popular_items(export):
    kept = [asked._replace(flags=[0] * len(asked.items)) for asked in ODD]
    answer = export.saved.recommend_examples([example(asked, schema.IS_FALSE_POSITIVE) for asked in ODD] + [b""])
    assert_answers(answer, np.concatenate([export.scores(kept), POPULAR[np.newaxis]]))


def test_what_the_model_is_told_makes_a_difference(export):
    """Each part of a request that the model has a use for changes scores, and no other does."""
    config = export.run.model
    asked = Asked(ITEMS[:3], [0, 1, 0], USERS[0], ITEMS[5:7])
    told = {
        "user": (asked._replace(user=USERS[1]), config.has_users),
        "history": (asked._replace(history=ITEMS[8:9]), config.has_history),
        "flags": (asked._replace(flags=[0, 0, 0]), True),
    }
    first = export.saved.recommend(*columns([asked])).score
    for name, (other, is_used) in told.items():
        difference = np.abs(export.saved.recommend(*columns([other])).score - first).max()
        assert difference > 1e-2 if is_used else difference == 0, name


def ask_on_the_command_line(export, capsys, *arguments):
    command = ["recommend", "--model", str(export.directory), "--items", f"{ITEMS[3]},{ITEMS[4]}", "-k", "5"]
    code = cli.main([*command, *arguments])
    printed = capsys.readouterr()
    return code, [line.split("\t")[0] for line in printed.out.splitlines()], printed.err


def test_the_command_line_needs_neither_user_nor_history(export, capsys):
    code, items, said = ask_on_the_command_line(export, capsys, "--fp", "0,1")
    assert (code, said) == (0, "")
    assert items == export.saved.recommend([ITEMS[3:5]], [[0, 1]]).item_id[0][:5]


def test_the_command_line_passes_on_what_the_model_takes_and_refuses_the_rest(export, capsys):
    config, asked = export.run.model, Asked(ITEMS[3:5], [0, 0])
    options = {
        "user": (["--user", USERS[2]], asked._replace(user=USERS[2]), config.has_users),
        "history": (["--history", f"{ITEMS[7]},{ITEMS[8]}"], asked._replace(history=ITEMS[7:9]), config.has_history),
    }
    for name, (option, request, is_taken) in options.items():
        code, items, said = ask_on_the_command_line(export, capsys, *option)
        if is_taken:
            assert (code, said) == (0, "")
            assert items == export.saved.recommend(*columns([request])).item_id[0][:5]
        else:
            assert (code, items, said.count("\n")) == (2, [], 1)
            assert f"--{name} " in said and f"leave --{name} out" in said


def test_an_export_holds_what_makes_a_query_and_nothing_that_only_training_needs(export):
    model = export.model
    needed = [model.items, model.tower, model.users, model.concat, model.marks, model.repeat_offsets]
    shapes = [w.shape.as_list() for part in needed if part is not None for w in part.weights]
    if model.task.satisfaction is not None:
        shapes += [[8, 3], [3]]  # a(s); what items need is in the candidates
    shapes += [list(model.candidates().shape), [V], [V]]
    listed = tf.train.list_variables(str(export.directory / "variables" / "variables"))
    exported = [tuple(shape) for name, shape in listed if name.endswith("VARIABLE_VALUE")]
    assert collections.Counter(exported) == collections.Counter(map(tuple, shapes))
    vocabularies = {path.name for path in (export.directory / "assets").iterdir()}
    assert vocabularies == {schema.ITEM_VOCABULARY} | ({schema.USER_VOCABULARY} if model.users is not None else set())


def test_a_model_is_not_evaluated_without_the_context_that_it_ranks_by(export, tmp_path):
    data = export.run.data.model_copy(update={"history": None})
    message = (
        "ranks by history_item_id, but the configuration has no data.history"
        if "history_item_id" in export.saved.takes("rank")
        else "is not finished"
    )
    with pytest.raises(InputError, match=message):
        judging.evaluate_export(str(export.directory), str(tmp_path), data, EvaluationConfig(), 1)


@pytest.mark.e2e
def test_the_probe_passes(export):
    result = probe.examine(str(export.directory))
    assert result.is_ok and result.figures["warmup_requests"] == 2 * len(export.sessions), result


@pytest.mark.e2e
def test_the_probe_finds_an_export_that_reads_its_context_otherwise_than_trained(export, tmp_path):
    config, copy = export.run.model, shutil.copytree(export.directory, tmp_path / "export")

    def queries(batch, is_mark_inverted=False):
        if is_mark_inverted:
            batch = batch | {schema.INPUT_IS_FP: ~batch[schema.INPUT_IS_FP]}
        return export.model.target_queries({name: tf.constant(value) for name, value in batch.items()}).numpy()

    scorer = expectations.Scorer(
        vocabulary=ITEMS,
        user_vocabulary=USERS,
        popularity_score=recommender.popularity_score(POPULARITY),
        candidates=export.model.candidates().numpy(),
        target_queries=queries,
        inputs=resolve(config).inputs,
        run=export.run,
    )
    faults = {}
    if config.has_users:
        faults["a user is not known"] = {"user_vocabulary": USERS[:-1]}
        faults["users have changed places"] = {"user_vocabulary": [USERS[1], USERS[0], *USERS[2:]]}
    if config.has_history:
        history = export.run.data.history.model_copy(update={"max_items": H - 1})
        data = export.run.data.model_copy(update={"history": history})
        faults["a shorter history"] = {"run": export.run.model_copy(update={"data": data})}
    if export.model.marks is not None:
        faults["marks the wrong way round"] = {"target_queries": functools.partial(queries, is_mark_inverted=True)}
    if config.penalty:
        other = config.model_copy(update={"penalty": 0.9 * BETA})
        faults["a smaller penalty"] = {"run": export.run.model_copy(update={"model": other})}
    if export.model.repeat_offsets is not None:
        of_kept, of_abandoned = export.model.repeat_offsets.offsets.numpy()[0]
        scorer = dataclasses.replace(scorer, offset_of_kept=of_kept, offset_of_abandoned=of_abandoned)
        faults["no offset of kept items"] = {"offset_of_kept": 0.0}
        faults["no offset of abandoned items"] = {"offset_of_abandoned": 0.0}
    for name, fault in faults.items():
        expected = expectations.expect(export.sessions, dataclasses.replace(scorer, **fault))
        expectations.write(copy / expectations.FILE_NAME, expected)
        result = probe.examine(str(copy))
        assert not result.is_ok and result.signature == "recommend" and "trained:" in result.message, name
