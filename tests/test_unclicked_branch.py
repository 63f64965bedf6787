"""XDM's model: every formula from its definition in NumPy, what it shares with FP-Metric, and lists that say nothing."""

import itertools
import typing

import numpy as np
import pydantic
import pytest
import tensorflow as tf
from derivatives import assert_directional_derivative

from fp_tfrs import schema
from fp_tfrs.config import ModelConfig, NextItemConfig, XdmConfig
from fp_tfrs.learning.lazy_adam import LazyAdam
from fp_tfrs.learning.losses import distance, unclicked_triplet
from fp_tfrs.learning.model import SessionModel
from fp_tfrs.learning.unclicked_branch import UnclickedBranch

V, D, U, M = 15, 6, 3, 4
TRIPLETS = typing.get_args(XdmConfig.model_fields["triplet"].annotation)
DISTANCES = typing.get_args(XdmConfig.model_fields["distance"].annotation)
FUSIONS = ("gate", "subtract", "scalar")
TOWER = {"name": "stamp", "embedding_dim": D}


@pytest.fixture(autouse=True)
def _double_precision():
    tf.keras.backend.set_floatx("float64")
    yield
    tf.keras.backend.set_floatx("float32")


def configure(xdm=None, method="vanilla", **sections):
    return ModelConfig.model_validate({"method": method, "tower": TOWER, "xdm": xdm, **sections})


def build(config, seed=1, is_spread=True):
    model = SessionModel(config, V, seed, np.arange(1, V + 1), n_users=U)
    random = np.random.default_rng(2)
    for variable in model.trainable_variables if is_spread else ():
        variable.assign_add(random.normal(size=variable.shape, scale=0.4))
    return model


def draw_batch(seed=0, n_sessions=4, n_steps=5):
    """Sessions of which some positions have unclicked items, some none, and some no label."""
    random = np.random.default_rng(seed)
    is_item = np.arange(n_steps) < np.append(n_steps, random.integers(1, n_steps + 1, n_sessions - 1))[:, None]
    item_index, label = (random.integers(2, V + 2, (n_sessions, n_steps)) * is_item for _ in range(2))
    label[0, 0] = 0
    n_unclicked = random.integers(0, M + 1, (n_sessions, n_steps, 1)) * (label > 0)[..., None]
    n_unclicked[0, 1:3, 0] = 0, M
    order = random.random((*label.shape, M)).argsort(-1)
    return {
        schema.ITEM_INDEX: item_index.astype(np.int32),
        schema.INPUT_IS_FP: (random.random(item_index.shape) < 0.4) & is_item,
        schema.LABEL: label.astype(np.int32),
        schema.LABEL_IS_FP: (random.random(label.shape) < 0.4) & (label > 0),
        schema.USER_INDEX: random.integers(0, U + 1, n_sessions).astype(np.int32),
        schema.UNCLICKED_INDEX: np.int32([random.permutation(V)[:M] + 2 for _ in range(n_sessions)]),
        schema.IS_UNCLICKED: order < n_unclicked,
    }


def with_nothing_unclicked(batch):
    return {**batch, schema.IS_UNCLICKED: np.zeros_like(batch[schema.IS_UNCLICKED])}


def loss_and_gradients(model, batch):
    with tf.GradientTape() as tape:
        loss = model.compute_loss({name: tf.constant(value) for name, value in batch.items()})
    gradients = tape.gradient(loss, model.trainable_variables, unconnected_gradients="zero")
    return loss.numpy(), [tf.convert_to_tensor(g).numpy() for g in gradients]


def figures(model):
    return {metric.name: float(metric.result()) for metric in model.metrics}


# --- distances and triplets


def test_distance_worked_example():
    a, b = tf.constant([3.0, 4.0]), tf.constant([1.0, 0.0])
    np.testing.assert_allclose([distance(a, b, kind) for kind in DISTANCES], [0.8, 20, -3], rtol=1e-6)


def test_triplets_worked_example():
    for n, expected in (
        (1, {"symmetric": 3.5, "two_hinge": 7, "equalise": 3.5, "asymmetric": 3.5, "label_clicked": 4}),
        (-1, {"symmetric": 0, "two_hinge": 3.5, "equalise": 27.5, "asymmetric": 3.5, "unclicked_label": 0}),
        (0.5, {"unclicked_clicked": 0.25, "unclicked_label": 0, "none": 0}),
    ):
        for triplet, value in expected.items():
            config = XdmConfig(triplet=triplet, distance="raw", margin=0.5, equalise_weight=3)
            assert unclicked_triplet(*(tf.constant([x]) for x in (0.0, float(n), 2.0)), config).numpy() == value


def numpy_distance(a, b, kind):
    if kind == "dot":
        return -(a @ b)
    if kind == "normalised":
        return 2 - 2 * a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    return a @ a + b @ b - 2 * a @ b


def numpy_triplet(h, n, c, config):
    ch, hn, cn = (numpy_distance(a, b, config.distance) for a, b in ((c, h), (h, n), (c, n)))
    m = config.margin
    return {
        "symmetric": max(0, m + ch - hn / 2 - cn / 2),
        "two_hinge": max(0, m + ch - hn) + max(0, m + ch - cn),
        "equalise": max(0, m + ch - hn) + config.equalise_weight * abs(hn - cn),
        "asymmetric": max(0, m + ch - hn),
        "label_clicked": ch,
        "unclicked_label": max(0, m - cn),
        "unclicked_clicked": max(0, m - hn),
        "none": 0,
    }[config.triplet]


@pytest.mark.parametrize("kind", DISTANCES)
def test_every_triplet_is_its_formula_and_has_its_gradient(kind):
    random = np.random.default_rng(3)
    members = [tf.Variable(random.normal(size=(2, 5, D))) for _ in range(3)]
    for triplet in TRIPLETS:
        if (triplet, kind) == ("label_clicked", "dot"):
            continue
        config = XdmConfig(triplet=triplet, distance=kind, margin=1.2, equalise_weight=0.7)
        found = unclicked_triplet(*members, config).numpy()
        for cell in np.ndindex(2, 5):
            expected = numpy_triplet(*(x.numpy()[cell] for x in members), config)
            np.testing.assert_allclose(found[cell], expected, rtol=1e-9, atol=1e-12)
        if triplet != "none":
            used = {"label_clicked": (0, 2), "unclicked_label": (1, 2), "unclicked_clicked": (0, 1)}.get(
                triplet, range(3)
            )
            weight = tf.constant(random.normal(size=(2, 5)))
            assert_directional_derivative(
                lambda c=config, w=weight: tf.reduce_sum(w * unclicked_triplet(*members, c)), [members[k] for k in used]
            )


def test_symmetric_is_asymmetric_where_both_ends_are_equally_far():
    """C25: h and c each other's mirror image, n between them."""
    n = np.array([[0.6, 0, 0, 0, 0, 0]])
    h = np.array([[0.5, 0.3, -0.8, 0, 0.1, 0.4]])
    c = h * [1, -1, -1, 1, -1, -1]
    for kind in DISTANCES:
        symmetric, asymmetric = (
            unclicked_triplet(h, n, c, XdmConfig(triplet=triplet, distance=kind, margin=2))
            for triplet in ("symmetric", "asymmetric")
        )
        assert symmetric > 0
        np.testing.assert_array_equal(symmetric, asymmetric)


# --- encoder


def branch_of(xdm, **sections):
    branch = UnclickedBranch(configure(xdm, **sections), 5)
    random = np.random.default_rng(6)
    for variable in branch.trainable_variables:
        variable.assign_add(random.normal(size=variable.shape, scale=0.3))
    return branch


def numpy_encoding(branch, items, n_heads):
    """One list, one head and one item after the other."""
    (query, key, value, output), size = (w.numpy() for w in branch.attention), D // n_heads
    rows = []
    for x in items:
        heads = []
        for head in range(n_heads):
            part = slice(head * size, (head + 1) * size)
            energy = np.array([(x @ query)[part] @ (y @ key)[part] for y in items]) / np.sqrt(size)
            weight = np.exp(energy) / np.exp(energy).sum()
            heads.append(sum(w * (y @ value)[part] for w, y in zip(weight, items, strict=True)))
        rows.append(x + np.concatenate(heads) @ output)
    mean = np.mean(rows, axis=0)
    return (mean - mean.mean()) / mean.std() * branch.norm_scale.numpy() + branch.norm_shift.numpy()


LISTS = np.array([[0b1111, 0b0001, 0, 0b1110, 0b0110], [0b1000, 0b1111, 0b0101, 0b1111, 0]])  # of two sessions
IS_LISTED = (LISTS[..., None] >> np.arange(4) & 1).astype(bool)


def draw_items():
    return np.random.default_rng(7).normal(size=(2, M, D))


@pytest.mark.parametrize("n_heads", [1, 3])
def test_the_encoder_is_its_formula_for_each_list_whatever_else_its_session_was_shown(n_heads):
    branch, items = branch_of({"n_heads": n_heads}), draw_items()
    found = branch.encode(tf.constant(items), tf.constant(IS_LISTED)).numpy()
    for session, position in np.ndindex(LISTS.shape):
        listed = items[session][IS_LISTED[session, position]]
        expected = numpy_encoding(branch, listed, n_heads) if len(listed) else np.zeros(D)
        np.testing.assert_allclose(found[session, position], expected, atol=1e-7)
    wider, is_wider = np.pad(items, [(0, 0), (0, 2), (0, 0)]), np.pad(IS_LISTED, [(0, 0), (0, 0), (0, 2)])
    wider[:, M:] = 9
    np.testing.assert_allclose(branch.encode(tf.constant(wider), tf.constant(is_wider)), found, atol=1e-12)


def test_the_encoder_stays_finite_when_a_list_attends_to_nothing_that_it_has():
    branch, items = branch_of({}), tf.constant([[[30.0] * D, [-30.0] * D, [-29.0] * D, [-28.0] * D]], tf.float64)
    with tf.GradientTape() as tape:
        found = branch.encode(items, tf.constant([[[False, True, True, True]]]))
    assert all(np.isfinite(x).all() for x in (found, *tape.gradient(found, branch.attention)))


def test_the_order_of_a_list_has_no_effect():
    items = draw_items()
    order = np.random.default_rng(8).permutation(M)
    for encoder in ("self_attention", "mean"):
        branch = branch_of({"encoder": encoder})
        found, other = (
            branch.encode(tf.constant(items[:, o]), tf.constant(IS_LISTED[..., o])) for o in (slice(None), order)
        )
        np.testing.assert_allclose(found, other, atol=1e-12)
    np.testing.assert_allclose(found[0, 3], items[0, 1:4].mean(0), rtol=1e-9)


def test_the_encoder_has_its_gradient():
    branch, items = branch_of({"n_heads": 2}), tf.Variable(draw_items())
    weight = np.random.default_rng(9).normal(size=(*LISTS.shape, D))
    cost = tf.function(lambda: tf.reduce_sum(weight * branch.encode(items, tf.constant(IS_LISTED))))
    assert_directional_derivative(cost, [items, *branch.attention, branch.norm_scale, branch.norm_shift])


# --- fusion


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_fusion(branch, fusion, h, n, u):
    if fusion == "none":
        return h
    kernel, bias = branch.gate_kernel.numpy(), branch.gate_bias.numpy()
    of_session, of_unclicked, *of_user = np.split(kernel, len(kernel) // D)
    gate = sigmoid(h @ of_session + n @ of_unclicked + (u @ of_user[0] if of_user else 0) + bias)
    assert gate.shape == (1 if fusion == "scalar" else D,)
    candidate = np.tanh(n @ branch.fused_kernel.numpy() + branch.fused_bias.numpy())
    return h - gate * candidate if fusion == "subtract" else gate * h + (1 - gate) * candidate


@pytest.mark.parametrize("fusion, has_users", [*itertools.product(FUSIONS, (False, True)), ("none", True)])
def test_every_fusion_is_its_formula(fusion, has_users):
    branch = branch_of({"fusion": fusion}, user_concat="add" if has_users else "none")
    h, n, u = np.random.default_rng(10).normal(size=(3, 2, D))
    found = branch.fuse(tf.constant(h), tf.constant(n), tf.constant(u) if has_users else None)
    for k in range(2):
        np.testing.assert_allclose(found[k], numpy_fusion(branch, fusion, h[k], n[k], u[k]), rtol=1e-9)


# --- the model


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss_of_a_batch_and_its_figures_from_the_definition(reduction):
    xdm = {"triplet": "two_hinge", "margin": 1.5, "lambda_unclicked": 0.7, "n_heads": 2}
    model, batch = build(configure(xdm, user_concat="gate", loss={"reduction": reduction})), draw_batch()
    h, table = model.session_embeddings(batch).numpy(), model.candidates().numpy()
    costs, terms = [], []
    for cell in zip(*np.nonzero(batch[schema.LABEL]), strict=True):
        label = batch[schema.LABEL][cell] - 2
        indices = batch[schema.UNCLICKED_INDEX][cell[0]][batch[schema.IS_UNCLICKED][cell]]
        query = h[cell]
        if indices.any():
            n = numpy_encoding(model.unclicked, table[indices - 2], 2)
            user = model.users(batch[schema.USER_INDEX]).numpy()[cell[0]]
            query = numpy_fusion(model.unclicked, "gate", query, n, user)
            terms.append(numpy_triplet(h[cell], n, table[label], model.unclicked._config))
        costs.append(np.log(np.exp(table @ query).sum()) - table[label] @ query)
    assert 2 < len(terms) < len(costs) and 0 < np.count_nonzero(terms)
    reduce = {"mean": np.mean, "sum": np.sum}[reduction]
    loss, _ = loss_and_gradients(model, batch)
    np.testing.assert_allclose(loss, reduce(costs) + 0.7 * reduce(terms), rtol=1e-6)
    expected = {
        "next_item_loss": np.mean(costs),
        "unclicked_loss": np.mean(terms),
        "unclicked_position_share": len(terms) / len(costs),
        "unclicked_active_share": np.mean(np.array(terms) > 0),
    }
    assert figures(model) == pytest.approx(expected, rel=1e-6)


def ranking_of(batch):
    n_steps = batch[schema.LABEL].shape[1]
    position = np.broadcast_to(np.arange(n_steps, dtype=np.int32), batch[schema.LABEL].shape)
    events = {schema.EVENT_INDEX: batch[schema.ITEM_INDEX], schema.EVENT_IS_FP: batch[schema.INPUT_IS_FP]}
    return {**batch, **events, schema.TARGET_POSITION: position, schema.TARGET_EVENT: position + 1}


@pytest.mark.parametrize("scale", [None, 12.0])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_queries_are_what_training_scores_and_a_removed_list_gives_the_sessions(fusion, scale):
    model, batch = build(configure({"fusion": fusion}, cosine_scale=scale)), draw_batch()
    ranking = ranking_of(batch)
    sessions, queries = model.session_embeddings(batch).numpy(), model.target_queries(ranking).numpy()
    has_unclicked = batch[schema.IS_UNCLICKED].any(-1)
    np.testing.assert_array_equal(queries[~has_unclicked], sessions[~has_unclicked])
    assert (np.abs(queries - sessions).max(-1) > 1e-6)[has_unclicked].all()
    np.testing.assert_array_equal(model.target_queries(with_nothing_unclicked(ranking)), sessions)
    if scale is not None:
        np.testing.assert_allclose(np.linalg.norm(queries[has_unclicked], axis=-1), 1)
    loss_and_gradients(model, batch)
    is_target = batch[schema.LABEL] > 0
    scores = queries[is_target] @ model.candidates().numpy().T
    own = scores[np.arange(len(scores)), batch[schema.LABEL][is_target] - 2]
    assert figures(model)["next_item_loss"] == pytest.approx((np.log(np.exp(scores).sum(1)) - own).mean(), rel=1e-6)


@pytest.mark.parametrize("kind", ["full_softmax", "sampled_softmax"])
def test_without_unclicked_items_the_model_is_the_one_without_xdm_bit_for_bit(kind):
    """Weights at the start, loss, figures and gradients; nothing of the branch gets a gradient that is no number."""
    sections = {"next_item": {"kind": kind, "negatives": 4}, "method": "fp_simple", "user_concat": "dense"}
    plain, xdm = (build(configure(section, **sections), is_spread=False) for section in (None, {}))
    batch = with_nothing_unclicked(draw_batch())
    (loss, gradients), (other_loss, other_gradients) = (loss_and_gradients(model, batch) for model in (plain, xdm))
    assert loss == other_loss
    n_shared = len(gradients)  # the branch's variables come last
    assert len(other_gradients) == n_shared + 10 and not any(g.any() for g in other_gradients[n_shared:])
    for k, gradient in enumerate(gradients):
        np.testing.assert_array_equal(gradient, other_gradients[k])
        np.testing.assert_array_equal(plain.trainable_variables[k], xdm.trainable_variables[k])
    assert figures(xdm) == figures(plain) | {
        "unclicked_loss": 0,
        "unclicked_position_share": 0,
        "unclicked_active_share": 0,
    }


def test_without_the_metric_term_lambda_is_0_bit_for_bit():
    models = [build(configure(xdm)) for xdm in ({"triplet": "none"}, {"lambda_unclicked": 0})]
    (loss, gradients), (other_loss, other_gradients) = (loss_and_gradients(model, draw_batch()) for model in models)
    assert loss == other_loss
    for gradient, other in zip(gradients, other_gradients, strict=True):
        np.testing.assert_array_equal(gradient, other)
        assert gradient.any()


@pytest.mark.parametrize("kind", ["full_softmax", "sampled_softmax"])
def test_fp_metric_is_xdm_with_the_false_positives_as_unclicked_items(kind):
    """C26: asymmetric, distance dot, mean of the items, no fusion; loss and gradients of every variable."""
    sections = {
        "next_item": {"kind": kind, "negatives": 4},
        "user_concat": "gate",
        "loss": {"lambda_fp": 0.6, "margin": 2},
    }
    xdm = {"triplet": "asymmetric", "distance": "dot", "encoder": "mean", "fusion": "none"}
    ours = build(configure({**xdm, "margin": 2, "lambda_unclicked": 0.6}, method="fp_simple", **sections))
    theirs = build(configure(method="fp_metric", **sections))
    batch = draw_batch()
    is_target = (batch[schema.LABEL] > 0)[..., None]
    fp_index = np.array([[2, 5, 7], [4, 0, 0], [0, 0, 0], [9, 3, 0]], np.int32)
    is_fp = is_target & (fp_index[:, None] > 0) & (fp_index[:, None] != batch[schema.LABEL][..., None])
    batch |= {schema.UNCLICKED_INDEX: fp_index, schema.IS_UNCLICKED: is_fp}
    false_positives = {schema.FP_INDEX: fp_index, schema.FP_PROBABILITY: is_fp.astype(float)}
    loss, gradients = loss_and_gradients(ours, batch)
    other_loss, other_gradients = loss_and_gradients(theirs, batch | false_positives)
    np.testing.assert_allclose(loss, other_loss, rtol=1e-12)
    for gradient, other in zip(gradients, other_gradients, strict=True):
        np.testing.assert_allclose(gradient, other, atol=1e-12)
    active = [figures(ours)["unclicked_active_share"], figures(theirs)["hinge_active_share"]]
    assert active[0] == pytest.approx(active[1]) and active[0] > 0


@pytest.mark.parametrize("kind", ["full_softmax", "sampled_softmax", "gbce"])
def test_a_training_step_moves_every_weight_and_the_unclicked_items(kind):
    tf.keras.backend.set_floatx("float32")
    model = build(configure({"margin": 4}, next_item=NextItemConfig(kind=kind, negatives=3)))
    model.compile(LazyAdam(0.01, global_clipnorm=5.0))
    before, batch = [v.numpy() for v in model.trainable_variables], draw_batch()
    if kind == "sampled_softmax":  # as the paper trains; a batch's shapes are unknown then
        specs = {name: tf.TensorSpec([None] * v.ndim, v.dtype) for name, v in batch.items()}
        step = tf.function(model.train_step, input_signature=[specs], autograph=False)
    else:
        step = model.train_step
    step({name: tf.constant(value) for name, value in batch.items()})
    for variable, value in zip(model.trainable_variables, before, strict=True):
        assert (variable.numpy() != value).any(), variable.name
    items = batch[schema.UNCLICKED_INDEX][batch[schema.IS_UNCLICKED].any(1)]
    assert (model.items.embeddings.numpy() != before[0]).any(1)[items - 2].all()


def test_settings_that_do_nothing_or_never_end_are_refused():
    for xdm, words in (
        *(({"fusion": "none", "triplet": kind}, "no part in anything") for kind in ("none", "label_clicked")),
        ({"distance": "dot", "triplet": "label_clicked"}, "no minimum"),
    ):
        with pytest.raises(pydantic.ValidationError, match=words):
            XdmConfig(**xdm)
    with pytest.raises(pydantic.ValidationError, match="use normalised"):
        configure({"distance": "raw"}, cosine_scale=12.0)
    with pytest.raises(pydantic.ValidationError, match="does not divide"):
        configure({"n_heads": 4})
