"""Serving: the export answers as the trained model does, worked out in NumPy, whatever is sent and by whichever signature."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from tensorflow.core.protobuf import saved_model_pb2

from fp_tfrs import schema
from fp_tfrs.config import RunConfig
from fp_tfrs.data.sessions import Session
from fp_tfrs.errors import InputError, RunError
from fp_tfrs.learning import metrics
from fp_tfrs.learning.model import SessionModel
from fp_tfrs.serving import expectations, exporting, recommender
from fp_tfrs.serving.item_table import pack
from fp_tfrs.serving.request import Request
from fp_tfrs.serving.saved_model import ROWS_PER_CALL, SavedModel

V, L, K = 40, 6, 20
VOCABULARY = [f"item {n} ü" for n in range(V)]
POPULARITY = np.array([50 - n // 2 for n in range(V)])  # pairs of equals
POPULARITY[-3:] = 0


def run_config(method: str, max_length: int = L, **serving_config) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "m",
            "data": {
                "source": {"format": "simulated", "simulation": {}},
                "columns": {"session_id": "s", "feedback": {"skip": "bool"}},
                "false_positive_when": [{"column": "skip", "op": "==", "value": True}],
                "sessions": {"max_length": max_length},
            },
            "model": {"method": method, "tower": {"embedding_dim": 8, "hidden_dim": 8}},
            "serving": {"top_k": K, **serving_config},
        }
    )


def draw_sessions(n: int, seed: int) -> list[Session]:
    random = np.random.default_rng(seed)
    return [
        Session(
            str(number),
            tuple(random.choice([*VOCABULARY, "unknown", ""], length)),
            tuple(bool(flag) for flag in random.random(length) < 0.3),
        )
        for number, length in enumerate(random.integers(1, 2 * L, n))
    ]


class Export:
    """A model, what was exported of it, and its answers by NumPy."""

    def __init__(self, directory: Path, run: RunConfig):
        self.run = run
        self.model = SessionModel(run.model, V, 3, POPULARITY)
        # Scores of a trained model's size: those of fresh weights are all near 0.
        self.model.set_weights([2 * w if w.dtype == np.float32 else w for w in self.model.get_weights()])
        training_dir = directory / "training"
        training_dir.mkdir(parents=True)
        vocabulary = training_dir / schema.ITEM_VOCABULARY
        vocabulary.write_text("".join(f"{item}\n" for item in VOCABULARY))
        self.directory = directory / "export"
        exporting.export(
            self.directory,
            self.model,
            str(vocabulary),
            POPULARITY,
            run,
            "version 7",
            draw_sessions(40, seed=1),
            warmup_sessions=draw_sessions(20, seed=11),
        )
        shutil.rmtree(training_dir)
        self.saved = SavedModel(self.directory)

    def scores(self, requests) -> np.ndarray:
        """float32 [n, V] by the definition: known kept items, the last L, dot product with the last session embedding."""
        is_tp_only = self.run.model.method != "vanilla"
        index = np.zeros([len(requests), L], np.int32)
        for row, (items, flags) in enumerate(requests):
            kept = [i for i, fp in zip(items, flags) if i in VOCABULARY and not (is_tp_only and fp)]
            used = [VOCABULARY.index(i) + 2 for i in kept]
            index[row, : len(used[-L:])] = used[-L:]
        sessions = self.model.session_embeddings({schema.ITEM_INDEX: tf.constant(index)}).numpy()
        last = sessions[np.arange(len(index)), np.maximum((index > 0).sum(1) - 1, 0)]
        scores = last @ self.model.candidates().numpy().T
        return np.where(index[:, :1] > 0, scores, np.log1p(POPULARITY.astype(np.float32)))


@pytest.fixture(scope="module")
def fp_export(tmp_path_factory):
    return Export(tmp_path_factory.mktemp("a path ü"), run_config("fp_adametric"))


@pytest.fixture(scope="module")
def unseen_export(tmp_path_factory):
    return Export(tmp_path_factory.mktemp("vanilla"), run_config("vanilla", exclude_seen=True, top_k=1000))


def example(items=None, flags=None) -> bytes:
    feature = {"session_id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"s"]))}
    if items is not None:
        feature["item_id"] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[i.encode() for i in items]))
    if flags is not None:
        feature["is_false_positive"] = tf.train.Feature(int64_list=tf.train.Int64List(value=flags))
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def columns_of(answer, row) -> list[int]:
    return [VOCABULARY.index(item) for item in answer.item_id[row]]


def assert_close(actual, desired):
    """Equal to 1e-6 of the largest score, or absolutely below 1."""
    np.testing.assert_allclose(actual, desired, rtol=0, atol=1e-6 * max(1, np.abs(desired).max()))


def test_usable_inputs_by_hand():
    column = tf.constant([[-1, 5, 6, -1, 7], [9, -1, -1, -1, -1], [-1] * 5, [1, 2, 3, 4, 5]], tf.int64)
    flags = tf.constant([[0, 0, 1, 1, 0], [1, 0, 0, 0, 0], [0] * 5, [0, 0, 0, 0, 2]], tf.int64)
    tp, is_abandoned = recommender.usable_inputs(column, flags, False, 3)
    assert tp.numpy().tolist() == [[7, 9, 0], [0, 0, 0], [0, 0, 0], [4, 5, 6]] and not is_abandoned.numpy().any()
    every, is_abandoned = recommender.usable_inputs(column, flags, True, 3)
    assert every.numpy().tolist() == [[7, 8, 9], [11, 0, 0], [0, 0, 0], [5, 6, 7]]
    assert is_abandoned.numpy().tolist() == [
        [False, True, False],
        [True, False, False],
        [False] * 3,
        [False, False, True],
    ]


def test_first_items_are_known_ones_each_once():
    column = tf.constant([[-1, 5, 5, 6, 7], [9, -1, 9, -1, 9], [-1] * 5, [6, 5, 6, 5, 6]], tf.int64)
    assert recommender.first_items(column, 2).numpy().tolist() == [[7, 8], [11, 0], [0, 0], [8, 7]]
    assert recommender.first_items(column, 9).numpy().tolist() == [[7, 8, 9], [11, 0, 0], [0, 0, 0], [8, 7, 0]]
    assert recommender.first_items(column[:, :0], 2).numpy().tolist() == [[0]] * 4
    assert recommender.first_items(column[:0], 2).shape == [0, 1]


@pytest.mark.parametrize("n_rows", [0, 1, 3])
@pytest.mark.parametrize("n_steps", [0, 1, 9])
def test_usable_inputs_always_have_a_column(n_rows, n_steps):
    for column in (-1, 4):
        inputs, is_abandoned = recommender.usable_inputs(
            tf.fill([n_rows, n_steps], tf.constant(column, tf.int64)), tf.zeros([n_rows, n_steps], tf.int64), True, 4
        )
        width = min(n_steps, 4) if column >= 0 and n_rows and n_steps else 1
        assert inputs.shape == is_abandoned.shape == [n_rows, width]


def test_a_thousand_sessions_in_one_request_score_as_the_model(fp_export):
    sessions = draw_sessions(1_000, seed=2)
    answer = fp_export.saved.recommend([s.item_id for s in sessions], [s.is_false_positive for s in sessions])
    every = fp_export.scores([(s.item_id, s.is_false_positive) for s in sessions])
    for row, scores in enumerate(every):
        best = np.argsort(-scores, kind="stable")[:K]
        assert_close(answer.score[row], scores[best])
        assert_close(scores[columns_of(answer, row)], scores[best])  # the same ids, but for ties
        assert len(set(answer.item_id[row])) == K
    assert set(answer.model_version) == {"version 7"}


def test_ids_get_the_positions_that_the_transform_gave_them(tmp_path):
    items = ["a", " a", "a ", "tab\there", "ü", "日本", "0", "-1", "A"]
    path = tmp_path / "vocabulary"
    path.write_text("".join(f"{item}\n" for item in items))
    exported = recommender.Recommender(
        lambda _: _,
        lambda _: None,
        pack(np.zeros([9, 2], np.float32), "float32"),
        np.zeros(9),
        str(path),
        None,
        run_config("vanilla"),
        "",
    )
    asked = tf.constant([*items, "", "b", "a\n"])
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:  # eagerly, tft would leave marks on later tests
        mapped = tft.apply_vocabulary(
            tf.constant(asked.numpy()), deferred_vocab_filename_tensor=str(path), default_value=-1
        )
        session.run(tf.compat.v1.tables_initializer())
        by_transform = session.run(mapped)
    assert exported.column_of_item.lookup(asked).numpy().tolist() == [*range(9), -1, -1, -1]
    np.testing.assert_array_equal(exported.column_of_item.lookup(asked), by_transform)
    assert exported.item_of_column.lookup(tf.range(9, dtype=tf.int64)).numpy().tolist() == [i.encode() for i in items]


def test_odd_lengths_in_one_batch_and_alone(fp_export, record_figure):
    record_figure("odd sessions served", "0, 1, L, L + 1, 10 L items, unknown, repeated: as alone", "all answered")
    random = np.random.default_rng(0)
    requests = [list(random.choice(VOCABULARY, n)) for n in (0, 1, L, L + 1, L + 7, 10 * L)]
    requests += [["who?", "what?"], [VOCABULARY[4]] * 3, [""] * 30 + [VOCABULARY[3]]]
    together = fp_export.saved.recommend(requests)
    assert together.item_id[0] == together.item_id[6] == VOCABULARY[:K]  # the popular ones
    trained = np.sort(fp_export.scores([(request, [0] * len(request)) for request in requests]))[:, ::-1]
    for row, request in enumerate(requests):
        assert_close(together.score[row], trained[row, :K])
        assert_close(fp_export.saved.recommend([request]).score[0], trained[row, :K])
    assert fp_export.saved.recommend([]).item_id == []
    assert len(fp_export.saved.recommend([requests[3]] * (ROWS_PER_CALL + 1)).item_id) == ROWS_PER_CALL + 1


def test_serialized_examples_of_a_thousand_sessions_are_answered_as_their_events(fp_export):
    sessions = draw_sessions(1_000, seed=2)  # those that are compared with the trained model
    events = fp_export.saved.recommend([s.item_id for s in sessions], [s.is_false_positive for s in sessions])
    examples = fp_export.saved.recommend_examples([example(s.item_id, map(int, s.is_false_positive)) for s in sessions])
    assert examples.item_id == events.item_id
    np.testing.assert_array_equal(examples.score, events.score)


def test_examples_with_features_missing_or_of_unequal_length(fp_export):
    a, b, c = VOCABULARY[:3]
    answers = fp_export.saved.recommend_examples(
        [example(), example([a, b, c]), example([a, b, c], [0, 1]), example([a], [0, 1, 1, 1, 1]), example(None, [1])]
    )
    expected = fp_export.saved.recommend([[], [a, b, c], [a, b, c], [a], []], [[], [], [0, 1, 0], [0], []])
    assert answers.item_id == expected.item_id
    with pytest.raises(tf.errors.InvalidArgumentError):
        fp_export.saved.recommend_examples([b"no example"])


def test_abandoned_items_are_inputs_of_vanilla_only(fp_export, unseen_export):
    items, flags = [VOCABULARY[1], VOCABULARY[2]], [0, 1]
    one = fp_export.saved.recommend([items], [flags]).score
    assert_close(one, fp_export.saved.recommend([items[:1]]).score)
    with_fp, without_fp = (unseen_export.saved.recommend([i]).score for i in (items, items[:1]))
    assert np.abs(with_fp[0, :5] - without_fp[0, :5]).max() > 1e-3
    np.testing.assert_array_equal(unseen_export.saved.recommend([items], [flags]).score, with_fp)


def test_exclude_seen_never_answers_an_item_of_the_session(unseen_export):
    items = [VOCABULARY[n] for n in (30, 1, 1, 2, 3, 4, 5, 6, 7, 8)] + ["unknown"]  # longer than L: all are seen
    flags = [1] + [0] * 10
    answer = unseen_export.saved.recommend([items, ["unknown"]], [flags, [0]])
    assert answer.score.shape == (2, V)  # top_k above the catalogue
    assert set(answer.item_id[0][: V - 9]) == set(VOCABULARY) - set(items)
    assert answer.item_id[0][V - 9 :] == [""] * 9
    assert np.isneginf(answer.score[0, V - 9 :]).all() and np.isfinite(answer.score[0, : V - 9]).all()
    assert set(answer.item_id[1]) == set(VOCABULARY)


def test_only_allowed_items_that_are_not_denied_are_answered(unseen_export):
    answer = unseen_export.saved.recommend
    items, allowed, denied = VOCABULARY[3:6], VOCABULARY[5:12], [*VOCABULARY[10:20], "who?"]
    answers = answer(
        [items, items, [], items, items, items],
        allowed_item_id=[allowed, [], allowed, [*allowed, "who?"], ["who?"], []],
        denied_item_id=[denied, denied, denied, [], [], []],
    )
    found = [{item for item in row if item} for row in answers.item_id]
    free = set(VOCABULARY) - set(items)
    assert found == [set(allowed[1:5]), free - set(denied), set(allowed[:5]), set(allowed[1:]), set(), free]
    for row, best in zip(answers.item_id, answer([items, items, []] + [items] * 3).item_id):
        assert row == [item for item in best if item in row and item] + [""] * row.count(
            ""
        )  # the others keep their order
    shared = answer([items] * (ROWS_PER_CALL + 1), allowed_item_id=[allowed], denied_item_id=[denied])
    assert shared.item_id == answers.item_id[:1] * (ROWS_PER_CALL + 1)
    with pytest.raises(InputError, match="allowed_item_id has 2 rows, but there are 3 sessions"):
        answer([items] * 3, allowed_item_id=[allowed] * 2)


def test_what_an_example_allows_and_denies_counts(unseen_export):
    requests = [Request(VOCABULARY[:2], [0, 0], "", [], [], "", VOCABULARY[4:9], VOCABULARY[5:7])]
    requests += [requests[0]._replace(allowed_item_id=[]), requests[0]._replace(denied_item_id=[])]
    of_examples = unseen_export.saved.recommend_examples([request.to_example() for request in requests])
    of_inputs = unseen_export.saved.call(
        "recommend_among", **unseen_export.saved.request_inputs("recommend_among", requests)
    )
    assert of_examples.item_id == [[item.decode() for item in row] for row in of_inputs["item_id"]]
    assert {*of_examples.item_id[0]} == {VOCABULARY[4], *VOCABULARY[7:9], ""}


@pytest.mark.parametrize("name", ["fp_export", "unseen_export"])
def test_ranks_are_those_of_the_scores(name, request):
    export = request.getfixturevalue(name)
    sessions = draw_sessions(300, seed=5) + [Session("e", (), ()), Session("u", ("unknown",), (False,))]
    targets = [str(t) for t in np.random.default_rng(6).choice([*VOCABULARY, "unknown"], len(sessions))]
    ranks = export.saved.rank([s.item_id for s in sessions], [s.is_false_positive for s in sessions], targets)
    assert ranks.dtype == np.int64
    every = export.scores([(s.item_id, s.is_false_positive) for s in sessions])
    popular = np.log1p(POPULARITY.astype(np.float32))
    for scores, target, rank in zip(every, targets, ranks):
        if target == "unknown":
            assert rank == 0
            continue
        column, others = VOCABULARY.index(target), np.delete(scores, VOCABULARY.index(target))
        slack = 0 if np.array_equal(scores, popular) else 1e-6 * np.abs(scores).max()
        assert 1 + (others >= scores[column] + slack).sum() <= rank <= 1 + (others >= scores[column] - slack).sum()


def test_popularity_ranks_count_ties_against_the_target(fp_export):
    ranks = fp_export.saved.rank([[]] * V, None, VOCABULARY)
    scores = np.tile(POPULARITY, (V, 1))
    np.testing.assert_array_equal(ranks, metrics.ranks_from_scores(scores, np.arange(V)))
    assert ranks[0] == ranks[1] == 2


def test_callers_in_parallel_get_the_answers_of_single_calls(fp_export):
    sessions = draw_sessions(20, seed=8)
    single = [fp_export.saved.recommend([s.item_id], [s.is_false_positive]).item_id for s in sessions]
    wrong = []

    def call(number):
        for turn in range(10):
            s = sessions[(number + turn) % 20]
            if fp_export.saved.recommend([s.item_id], [s.is_false_positive]).item_id != single[(number + turn) % 20]:
                wrong.append(number)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_export_is_self_contained_and_plain(fp_export):
    """No custom op, no optimizer, no gate: a model server has all it needs, and nothing that it does not."""
    files = {path.relative_to(fp_export.directory).as_posix() for path in fp_export.directory.rglob("*")}
    assert {"saved_model.pb", f"assets/{schema.ITEM_VOCABULARY}", expectations.FILE_NAME} <= files
    names = [name for name, _ in tf.train.list_variables(str(fp_export.directory / "variables" / "variables"))]
    n_tower = len(fp_export.model.tower.trainable_variables) + len(fp_export.model.items.trainable_variables)
    assert sum(name.endswith("VARIABLE_VALUE") for name in names) <= n_tower + 3
    saved = saved_model_pb2.SavedModel.FromString((fp_export.directory / "saved_model.pb").read_bytes())
    graph = saved.meta_graphs[0].graph_def
    functions = {function.signature.name: function.node_def for function in graph.library.function}
    used = {node.op for nodes in (graph.node, *functions.values()) for node in nodes} - set(functions)
    assert "MatMul" in used
    assert not [op for op in used if not hasattr(tf.raw_ops, op)]


def test_shapes_that_differ_are_refused_and_the_model_lives(fp_export):
    ids, flags = np.array([["a", "b"]], dtype=object), np.zeros([1, 1], np.int64)
    with pytest.raises(tf.errors.InvalidArgumentError, match="differ in shape"):
        fp_export.saved.call("recommend", item_id=ids, is_false_positive=flags)
    with pytest.raises(ValueError):
        fp_export.saved.call("recommend", item_id=ids, is_false_positive=np.array([["x", "y"]]))
    with pytest.raises(InputError, match="3 flags for 2 items"):
        fp_export.saved.recommend([["a", "b"]], [[0, 0, 1]])
    assert fp_export.saved.recommend([["a"]]).item_id == [VOCABULARY[:K]]


def test_what_is_no_model_or_lacks_a_signature_is_named(fp_export, tmp_path):
    with pytest.raises(InputError, match="no saved_model.pb"):
        SavedModel(tmp_path)
    (tmp_path / "saved_model.pb").write_bytes(b"rubbish")
    with pytest.raises(InputError, match="cannot be loaded"):
        SavedModel(tmp_path)
    with pytest.raises(InputError, match="'classify'; it has: rank, recommend, recommend_among, serving_default"):
        fp_export.saved.call("classify", examples=np.array([]))
    with pytest.raises(InputError, match="takes examples; it was given item_id"):
        fp_export.saved.call("serving_default", item_id=np.array([]))


@pytest.mark.parametrize(
    ("lines", "popularity", "message"),
    [
        (VOCABULARY[:-1], POPULARITY, "has 39 items, the model 40"),
        (VOCABULARY, POPULARITY[:-1], "their popularity 39"),
        ([*VOCABULARY[:-1], VOCABULARY[0]], POPULARITY, "an item twice"),
        (["", *VOCABULARY[1:]], POPULARITY, "empty line"),
    ],
)
def test_parts_that_do_not_fit_are_refused(fp_export, tmp_path, lines, popularity, message):
    vocabulary = tmp_path / "vocabulary"
    vocabulary.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(RunError, match=message):
        exporting.export(tmp_path / "export", fp_export.model, str(vocabulary), popularity, fp_export.run, "1", [])
    assert not (tmp_path / "export").exists()


def test_a_diverged_model_is_not_exported_and_a_taken_place_is_left_alone(fp_export, tmp_path):
    vocabulary = tmp_path / "vocabulary"
    vocabulary.write_text("".join(f"{item}\n" for item in VOCABULARY))
    sessions = draw_sessions(3, seed=9)
    model = SessionModel(fp_export.run.model, V, 1, POPULARITY)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    with pytest.raises(RunError, match="taken is there already"):
        exporting.export(tmp_path / "taken", model, str(vocabulary), POPULARITY, fp_export.run, "1", sessions)
    model.set_weights([np.full_like(w, np.nan) if w.dtype == np.float32 else w for w in model.get_weights()])
    with pytest.raises(RunError, match="not finite"):
        exporting.export(tmp_path / "export", model, str(vocabulary), POPULARITY, fp_export.run, "1", sessions)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken", "vocabulary"]
