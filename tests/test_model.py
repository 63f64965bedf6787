"""The whole model in training: equal where methods must be equal, resumable, and able to learn."""

import numpy as np
import pytest
import tensorflow as tf

from fp_tfrs import schema
from fp_tfrs.config import LossConfig, ModelConfig, NarmConfig, NextItemConfig
from fp_tfrs.learning.correlation import Correlation
from fp_tfrs.learning.lazy_adam import LazyAdam
from fp_tfrs.learning.model import SessionModel

V = 30
COUNTS = np.ones(V)
TOWER = NarmConfig(embedding_dim=8, hidden_dim=8)
SHAPES = [(4, 3, 2), (6, 5, 3), (4, 3, 2), (5, 7, 4), (6, 5, 3)]  # B, T, M
SIGNATURE = {
    schema.ITEM_INDEX: tf.TensorSpec([None, None], tf.int32),
    schema.LABEL: tf.TensorSpec([None, None], tf.int32),
    schema.FP_INDEX: tf.TensorSpec([None, None], tf.int32),
    schema.FP_PROBABILITY: tf.TensorSpec([None, None, None], tf.float32),
}


def _batch(seed, n_sessions, n_steps, n_fp):
    random = np.random.default_rng(seed)
    is_item = np.arange(n_steps) < random.integers(1, n_steps + 1, (n_sessions, 1))
    item_index, label = (random.integers(2, V + 2, (n_sessions, n_steps)) * is_item for _ in range(2))
    is_fp = np.arange(n_fp) < random.integers(0, n_fp + 1, (n_sessions, 1))
    return {
        schema.ITEM_INDEX: item_index.astype(np.int32),
        schema.LABEL: label.astype(np.int32),
        schema.FP_INDEX: (random.integers(2, V + 2, (n_sessions, n_fp)) * is_fp).astype(np.int32),
        schema.FP_PROBABILITY: np.float32(is_fp[:, None] & (label > 0)[..., None]),
    }


def _dataset(shapes=SHAPES):
    return tf.data.Dataset.from_generator(
        lambda: (_batch(seed, *shape) for seed, shape in enumerate(shapes)), output_signature=SIGNATURE
    )


def _model(method, seed=1, clip_norm=5.0, **loss):
    model = SessionModel(ModelConfig(method=method, tower=TOWER, loss=LossConfig(**loss)), V, seed, COUNTS)
    return _compiled(model, clip_norm)


def _compiled(model, clip_norm=5.0, learning_rate=0.01, optimizer=tf.keras.optimizers.Adam):
    optimizer = optimizer(learning_rate, global_clipnorm=clip_norm)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer)
    return model


def _shared_weights(model):
    return [model.items.embeddings, *model.tower.weights]


def _assert_equal(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.matrix
def test_with_lambda_0_every_method_trains_as_fp_simple_bit_for_bit():
    for train, methods in ((_step_eagerly, ("fp_metric", "fp_adametric")), (_fit, ("fp_adametric",))):
        simple = train(_model("fp_simple", clip_norm=0.1))  # a norm that always clips
        for method in methods:
            _assert_equal(_shared_weights(simple), _shared_weights(train(_model(method, lambda_fp=0, clip_norm=0.1))))


def _step_eagerly(model):
    for seed, shape in enumerate(SHAPES):
        model.train_step(_batch(seed, *shape))
    return model


def _fit(model):
    model.fit(_dataset(), epochs=2, verbose=0)
    return model


def test_a_gate_of_ones_trains_as_fp_metric():
    metric, adaptive = _model("fp_metric"), _model("fp_adametric", gate="linear", gate_gradient="stop")
    gate = adaptive.task.gate
    gate.output_kernel.assign(tf.zeros_like(gate.output_kernel))
    gate.output_bias.assign(1.0)
    _assert_equal(_shared_weights(_step_eagerly(metric)), _shared_weights(_step_eagerly(adaptive)))
    assert adaptive.get_metrics_result()["gate_mean"] == 1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model after four epochs on batches of several shapes, its logs, its checkpoint after two, its traces."""
    model, traces = _model("fp_adametric"), []
    compute_loss = model.compute_loss
    model.compute_loss = lambda *arguments, **keywords: traces.append(1) or compute_loss(*arguments, **keywords)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    prefix = str(tmp_path_factory.mktemp("checkpoint") / "epoch")
    paths = []
    save = tf.keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: paths.append(checkpoint.save(prefix)))
    logs = model.fit(_dataset(), epochs=4, verbose=0, callbacks=[save]).history
    return model, logs, paths[1], traces


def test_training_resumed_from_a_checkpoint_equals_uninterrupted_training(trained):
    model, logs, path, _ = trained
    resumed = _model("fp_adametric", seed=99)
    tf.train.Checkpoint(model=resumed, optimizer=resumed.optimizer).restore(path).assert_existing_objects_matched()
    resumed_logs = resumed.fit(_dataset(), initial_epoch=2, epochs=4, verbose=0).history
    _assert_equal(model.weights, resumed.weights)
    _assert_equal(model.optimizer.variables, resumed.optimizer.variables)
    for name, values in resumed_logs.items():
        assert values == logs[name][2:], name


def test_the_data_sets_end_is_not_a_step(trained):
    assert trained[0].optimizer.iterations == 4 * len(SHAPES)


def test_new_batch_shapes_do_not_retrace(trained):
    assert len(trained[3]) == 1


def test_each_epochs_figures_are_in_the_logs(trained):
    logs = trained[1]
    for name in (
        "next_item_loss",
        "metric_loss",
        "fp_position_share",
        "hinge_active_share",
        "gate_mean",
        "gate_similarity_correlation",
    ):
        assert np.isfinite(logs[name]).all(), name
    assert logs["next_item_loss"][3] < logs["next_item_loss"][0]


def test_the_seed_decides_everything():
    def train(seed):
        model = _model("fp_adametric", seed=seed)
        model.train_step(_batch(0, *SHAPES[0]))
        return model.weights

    _assert_equal(train(1), train(1))
    assert all((a.numpy() != b.numpy()).any() for a, b in zip(train(1), train(2), strict=True))


@pytest.mark.parametrize("method", ["vanilla", "fp_simple", "fp_metric", "fp_adametric"])
def test_one_step_moves_every_parameter(method):
    model = _model(method, margin=5.0)
    before = [w.numpy() for w in model.trainable_weights]
    model.train_step(_batch(1, 8, 6, 3))
    assert len(before) == (12 if method == "fp_adametric" else 8)
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert (weight.numpy() != old).any(), weight.name


@pytest.mark.parametrize(
    "loss",
    [
        {"gate": "softmax", "similarity": "cosine", "aggregation": "softmax"},
        {"gate": "softplus", "gate_inputs": "text", "gate_gradient": "reverse", "hinge": "per_fp"},
        {"gate": "linear", "gate_gradient": "stop", "aggregation": "sum", "reduction": "sum"},
        {"gate": "hard", "denominator": "all", "similarity": "scaled_dot", "gate_hidden_dim": 3},
    ],
)
def test_options_train(loss):
    model = _model("fp_adametric", margin=5.0, **loss)
    before = [w.numpy() for w in model.trainable_weights]
    result = model.train_step(_batch(1, 8, 6, 3))
    assert np.isfinite(result["loss"]) and result["metric_loss"] > 0
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert (weight.numpy() != old).any(), weight.name


@pytest.mark.parametrize("reduction, factor", [("mean", 1), ("sum", 2)])
def test_a_doubled_batch_has_the_same_mean_and_twice_the_sum(reduction, factor):
    for denominator in ("active_fp", "all"):
        model = _model("fp_adametric", reduction=reduction, denominator=denominator, margin=3.0)
        batch = _batch(0, 6, 5, 3)
        doubled = {name: np.concatenate([value, value]) for name, value in batch.items()}
        padded = {name: np.pad(batch[name], [(0, 0), (0, 3)]) for name in (schema.ITEM_INDEX, schema.LABEL)}
        padded[schema.FP_INDEX] = np.pad(batch[schema.FP_INDEX], [(0, 0), (0, 2)])
        padded[schema.FP_PROBABILITY] = np.pad(batch[schema.FP_PROBABILITY], [(0, 0), (0, 3), (0, 2)])
        loss = model.compute_loss(batch).numpy()
        np.testing.assert_allclose(model.compute_loss(doubled), factor * loss, rtol=1e-5)
        np.testing.assert_allclose(model.compute_loss(padded), loss, rtol=1e-5)


def test_loss_and_figures_of_a_hand_made_batch():
    """Three items, D = 2, no dropout: every figure is recomputed from the model's embeddings."""
    loss_config = LossConfig(lambda_fp=0.5, margin=1.0)
    config = ModelConfig(tower=NarmConfig(embedding_dim=2, hidden_dim=3), loss=loss_config)
    model = SessionModel(config, 3, 4, COUNTS[:3])
    batch = {
        schema.ITEM_INDEX: np.array([[2, 3], [4, 0]], np.int32),
        schema.LABEL: np.array([[3, 4], [2, 0]], np.int32),
        schema.FP_INDEX: np.array([[2, 4], [0, 0]], np.int32),
        # The second position may use item 2 only (item 4 is its label); the padded position is to be ignored.
        schema.FP_PROBABILITY: np.array([[[1, 3], [1, 0]], [[0, 0], [1, 0]]], np.float32),
    }
    loss = model.compute_loss(batch).numpy()
    figures = {metric.name: float(metric.result()) for metric in model.metrics}
    s, e = model.session_embeddings(batch).numpy(), model.candidates().numpy()
    targets = [(s[0, 0], 1), (s[0, 1], 2), (s[1, 0], 0)]
    cross_entropy = np.mean([np.log(np.exp(e @ v).sum()) - e[i] @ v for v, i in targets])

    def weigh(session, label, fp):
        gate = model.task.gate
        kernel, bias, output_kernel, output_bias = gate.get_weights()
        hidden = np.maximum(np.concatenate([session, label, fp]) @ kernel + bias, 0)
        return 1 / (1 + np.exp(-(hidden @ output_kernel)[0] - output_bias))

    w = [weigh(s[0, 0], e[1], e[0]), weigh(s[0, 0], e[1], e[2]), weigh(s[0, 1], e[2], e[0])]
    d = [e[0] @ s[0, 0], e[2] @ s[0, 0], e[0] @ s[0, 1]]
    hinges = [
        max(0, 1 - e[1] @ s[0, 0] + 0.25 * w[0] * d[0] + 0.75 * w[1] * d[1]),
        max(0, 1 - e[2] @ s[0, 1] + w[2] * d[2]),
    ]
    expected = {
        "next_item_loss": cross_entropy,
        "metric_loss": np.mean(hinges),
        "fp_position_share": 2 / 3,
        "hinge_active_share": np.mean(np.array(hinges) > 0),
        "gate_mean": np.mean(w),
        "gate_similarity_correlation": np.corrcoef(w, d)[0, 1],
    }
    assert figures == pytest.approx(expected, rel=1e-3)
    assert loss == pytest.approx(cross_entropy + 0.5 * np.mean(hinges), rel=1e-5)


def test_correlation_is_pearsons_over_batches():
    random = np.random.default_rng(0)
    x = random.normal(size=(3, 40))
    y = x + random.normal(size=x.shape)
    keep = random.uniform(size=x.shape) < 0.5
    correlation = Correlation("correlation")
    assert correlation.result() == 0
    for batch in zip(x, y, keep, strict=True):
        correlation.update_state(*batch)
    np.testing.assert_allclose(correlation.result(), np.corrcoef(x[keep], y[keep])[0, 1])


def test_the_model_learns_50_sessions_by_heart():
    random = np.random.default_rng(0)
    sessions = np.stack([random.permutation(V)[:6] + 2 for _ in range(50)]).astype(np.int32)
    sessions[:, 0] = np.arange(50) % V + 2
    sessions[:, 1] = np.arange(50) // V + 2  # no two sessions begin with the same two items
    batch = {
        schema.ITEM_INDEX: sessions[:, :-1],
        schema.LABEL: np.where(np.arange(5) > 0, sessions[:, 1:], 0),
        schema.FP_INDEX: random.integers(2, V + 2, (50, 2)).astype(np.int32),
    }
    is_other = batch[schema.FP_INDEX][:, None] != batch[schema.LABEL][..., None]
    batch[schema.FP_PROBABILITY] = np.float32(is_other & (batch[schema.LABEL] > 0)[..., None])
    tower = NarmConfig(embedding_dim=32, hidden_dim=32, dropout_embedding=0, dropout_context=0)
    model = SessionModel(ModelConfig(tower=tower), V, 1, COUNTS)
    _compiled(model, learning_rate=0.02).fit(tf.data.Dataset.from_tensors(batch).repeat(100), verbose=0)
    scores = tf.matmul(model.session_embeddings(batch), model.candidates(), transpose_b=True)
    is_hit = scores.numpy().argmax(-1) + schema.FIRST_ITEM_INDEX == batch[schema.LABEL]
    assert is_hit[:, 1:].mean() > 0.95


def test_cosine_scale_makes_every_score_that_times_the_cosine():
    """Also in the loss: with one target it is −log softmax of just these scores, and padding stays zero."""
    config = ModelConfig(
        method="fp_metric",
        tower=NarmConfig(embedding_dim=6, hidden_dim=5, dropout_embedding=0, dropout_context=0),
        loss=LossConfig(lambda_fp=0.5, margin=100),
        cosine_scale=12,
    )
    model = SessionModel(config, 9, 3, COUNTS[:9])
    item_index, label, fp = 2 + np.array([[1, 4, 6]]), 2 + np.array([[-2, -2, 3]]), 2 + np.array([[5]])
    raw = SessionModel(config.model_copy(update={"cosine_scale": None}), 9, 3, COUNTS[:9])
    session = raw.session_embeddings({schema.ITEM_INDEX: tf.constant(item_index)}).numpy()[0, -1]
    table = raw.candidates().numpy()
    cosine = table @ session / np.linalg.norm(table, axis=1) / np.linalg.norm(session)

    embeddings = model.session_embeddings({schema.ITEM_INDEX: tf.constant([[3, 6, 8, 0]])}).numpy()[0]
    np.testing.assert_allclose(model.candidates().numpy() @ embeddings[2], 12 * cosine, rtol=1e-5)
    assert not embeddings[3].any()
    batch = {
        schema.ITEM_INDEX: tf.constant(item_index, tf.int32),
        schema.LABEL: tf.constant(np.maximum(label, 0), tf.int32),
        schema.FP_INDEX: tf.constant(fp, tf.int32),
        schema.FP_PROBABILITY: tf.ones([1, 3, 1]),
    }
    scores = 12 * cosine
    expected = np.log(np.exp(scores).sum()) - scores[3] + 0.5 * (100 - scores[3] + scores[5])
    np.testing.assert_allclose(model.compute_loss(batch), expected, rtol=1e-5)


def test_sampled_training_resumes_exactly_and_updates_rows_alone(tmp_path):
    """The sampler's state is in the checkpoint too; the item table's gradient is rows."""

    def sampled(seed):
        config = ModelConfig(
            method="fp_metric", tower=TOWER, next_item=NextItemConfig(kind="sampled_softmax", negatives=4)
        )
        return _compiled(SessionModel(config, V, seed, COUNTS), optimizer=LazyAdam)

    whole, resumed = sampled(1), sampled(99)
    whole.fit(_dataset(), epochs=1, verbose=0)
    path = tf.train.Checkpoint(model=whole, optimizer=whole.optimizer).save(str(tmp_path / "epoch"))
    tf.train.Checkpoint(model=resumed, optimizer=resumed.optimizer).restore(path).assert_existing_objects_matched()
    logs, resumed_logs = (model.fit(_dataset(), epochs=1, verbose=0).history for model in (whole, resumed))
    _assert_equal(whole.weights, resumed.weights)
    assert logs == resumed_logs

    before, batch = whole.items.embeddings.numpy(), _batch(0, 1, 2, 1)
    whole.train_step(batch)
    has_moved = (whole.items.embeddings.numpy() != before).any(1)
    assert 0 < has_moved.sum() <= 4 + sum(np.count_nonzero(v) for v in batch.values()) < V
