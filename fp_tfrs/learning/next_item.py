"""Next-item losses: session embeddings at targets and item embeddings in, a loss for each target out.

Pure functions of tensors, and `NextItemLoss`, which has the one that the configuration names, and its sampler; `task.py`
reduces their values and adds the metric term of `losses.py`.

Source: eqs. 4 and 5 of FP-AdaMetric (Jeong et al., AAAI 2022): the score r of an item is its dot product with the session
embedding, the loss −log softmax(r) at the target. Sampled ones: see each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from fp_tfrs.config import NextItemConfig
from fp_tfrs.learning.negative_sampling import NegativeSampler

# Above it float32 and float64 are exact to their last digits, and so is the logarithm.
_LEAST_PROBABILITY = 1e-30


def softmax_loss(
    session_embeddings: tf.Tensor,
    item_embeddings: tf.Tensor,
    position: tf.Tensor,
    extra_log_weight: tf.Tensor | None = None,
    max_logit_bytes: int = 2**28,
) -> tf.Tensor:
    """−log( e^r⁺ / (Σ_j e^r_j + e^extra) ) over the whole catalogue, r_j = e_j · s (eqs. 4, 5 without extra).

    Args:
        session_embeddings: `<float>[N, D]` s, one for each target
        item_embeddings: `<float>[V, D]` e
        position: `<int>[N]` row of the target's item in item_embeddings
        extra_log_weight: `<float>[N]` log of what the denominator has besides the items, −inf for nothing; None: no such term
        max_logit_bytes: what the logits and their softmax may take together. More targets than fit are done in chunks; where
            their losses are not just averaged or added up, this takes two thirds more multiplications.

    Returns:
        `<float>[N]`, differentiable in the three float arguments.

    Example: with embeddings 1, 0, −1 of three items (D = 1), session embedding ln 2 and the first item as target, the
    scores are ln 2, 0, −ln 2, the probabilities 2/3.5, 1/3.5, 0.5/3.5, and the loss is ln(3.5/2) = 0.5596. An extra log
    weight of ln 0.5 makes it ln(4/2) = 0.6931.
    """
    sessions, items = tf.convert_to_tensor(session_embeddings), tf.convert_to_tensor(item_embeddings)
    position = tf.identity(position)  # custom gradients in a graph cannot hold an eager tensor
    n_fitting = tf.maximum(max_logit_bytes // (2 * sessions.dtype.size * tf.shape(items, tf.int64)[0]), 1)
    extra = None  # beside the target's score
    if extra_log_weight is not None:
        extra = extra_log_weight - tf.reduce_sum(sessions * tf.gather(items, position), -1)

    def at_once() -> tf.Tensor:
        loss = _log_loss(sessions, items, position)
        return loss if extra is None else _add_exp(loss, extra)

    def in_chunks() -> tf.Tensor:
        nothing = tf.fill(tf.shape(sessions)[:1], sessions.dtype.as_numpy_dtype(-np.inf))
        return _log_loss_in_chunks(sessions, items, position, nothing if extra is None else extra, n_fitting)

    return tf.cond(tf.shape(sessions, tf.int64)[0] <= n_fitting, at_once, in_chunks)


class DrawnItems(NamedTuple):
    """The items that a step's targets are told apart from, in place of the whole catalogue.

    Attributes:
        position: `<int>[S]` rows of the item table, as drawn, repetitions and all
        embeddings: `<float>[S, D]` of the drawn items
        label_embeddings: `<float>[N, D]` of the targets' items
    """

    position: tf.Tensor
    embeddings: tf.Tensor
    label_embeddings: tf.Tensor


class NextItemLoss(tf.Module):
    """The loss that the configuration names, for a model's `compute_loss`.

    Args:
        config: which loss, and its options
        item_counts: `<number>[V]` clicks of each item in training; used for sampled losses
        seed: of the sampler, whose state a `tf.train.Checkpoint` keeps
    """

    def __init__(self, config: NextItemConfig, item_counts: np.ndarray, seed: int):
        super().__init__()
        self._config = config
        self._n_items = len(item_counts)
        self._sampler: NegativeSampler | None = None
        if config.kind != "full_softmax":
            exponent = 0.0 if config.kind == "gbce" else config.sampling_exponent
            self._sampler = NegativeSampler(item_counts, exponent, seed)

    def draw(self) -> tf.Tensor | None:
        """`<int32>[S]` rows of the item table for a step's `DrawnItems`; None: the loss takes the whole catalogue."""
        return None if self._sampler is None else self._sampler.draw(self._config.negatives)

    def __call__(
        self,
        session_embeddings: tf.Tensor,
        items: tf.Tensor | DrawnItems,
        position: tf.Tensor,
        extra_log_weight: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """The loss of each target, `<float>[N]`.

        session_embeddings `<float>[N, D]` at targets; items: all embeddings `<float>[V, D]` if `draw` gives None, else what
        it has drawn; position `<int>[N]` of the target's row in the item table; extra_log_weight `<float>[N]`: see
        `softmax_loss`. Raises ValueError for an extra weight with gbce, which has no softmax.
        """
        config, sampler = self._config, self._sampler
        if sampler is None:
            return softmax_loss(session_embeddings, items, position, extra_log_weight, config.max_logit_mib * 2**20)
        is_own = position[:, tf.newaxis] == items.position
        if config.kind == "gbce":
            if extra_log_weight is not None:
                raise ValueError("gbce has no softmax that false positives could join; choose sampled_softmax")
            beta = gbce_beta(config.negatives, self._n_items, config.gbce_t)
            return gbce_loss(session_embeddings, items.label_embeddings, items.embeddings, is_own, beta)
        label_log_count, negative_log_count = (
            tf.cast(tf.gather(sampler.log_probability, rows), session_embeddings.dtype) + np.log(config.negatives)
            if is_corrected
            else tf.zeros(tf.shape(rows), session_embeddings.dtype)
            for rows, is_corrected in ((position, config.logq == "standard"), (items.position, config.logq != "none"))
        )
        return sampled_softmax_loss(
            session_embeddings,
            items.label_embeddings,
            items.embeddings,
            is_own,
            label_log_count,
            negative_log_count,
            extra_log_weight,
        )


def sampled_softmax_loss(
    session_embeddings: tf.Tensor,
    label_embeddings: tf.Tensor,
    negative_embeddings: tf.Tensor,
    is_own: tf.Tensor,
    label_log_count: tf.Tensor,
    negative_log_count: tf.Tensor,
    extra_log_weight: tf.Tensor | None = None,
) -> tf.Tensor:
    """−log( e^(r⁺ − c⁺) / (e^(r⁺ − c⁺) + Σ_j e^(r_j − c_j) + e^extra) ), the sum over drawn items j that aren't the target.

    c is the logarithm of the number of times that an item is expected among the drawn ones; e^−c makes the sum an unbiased
    estimate of the sum over all items but the target (Bengio & Senécal, 2008, "logQ correction"). As usual (standard) the
    target is corrected too, as if it had been drawn. It is always there: with c⁺ = 0 (refined), the loss estimates the full
    softmax's, and its gradient is that of the weighted loss of Khrylchenko et al. (RecSys 2025, arXiv 2507.09331),
    (1 − p)·(log Σ_j e^(r_j − c_j) − r⁺) with p, the target's probability in this estimate, held constant.

    Args:
        session_embeddings: `<float>[N, D]`
        label_embeddings: `<float>[N, D]` of the targets
        negative_embeddings: `<float>[S, D]` of the drawn items
        is_own: `<bool>[N, S]` whether the drawn item is the target itself; it is left out then.
        label_log_count: `<float>[N]` c⁺
        negative_log_count: `<float>[S]` c
        extra_log_weight: `<float>[N]`, as of `softmax_loss`

    Returns:
        `<float>[N]`, differentiable in all embeddings and in extra_log_weight.

    Example: D = 1, session embedding ln 2, target 1 and drawn items 0, −1, 1, the last one the target itself, c⁺ = 0,
    c = ln 2 for all: the loss is −ln(2 / (2 + 1/2 + 0.5/2)) = ln(2.75/2) = 0.3185; with c⁺ = ln 2, ln 1.75 = 0.5596.
    """
    # The correction is one more dimension of the dot product.
    sessions = tf.concat([session_embeddings, tf.ones_like(session_embeddings[:, :1])], 1)
    negatives = tf.concat([negative_embeddings, -negative_log_count[:, tf.newaxis]], 1)
    log_sum = _log_sum_exp(sessions, negatives, is_own)
    label_score = tf.reduce_sum(session_embeddings * label_embeddings, -1) - label_log_count
    addends = [label_score, log_sum] if extra_log_weight is None else [label_score, log_sum, extra_log_weight]
    return tf.reduce_logsumexp(tf.stack(addends, -1), -1) - label_score


def gbce_loss(
    session_embeddings: tf.Tensor,
    label_embeddings: tf.Tensor,
    negative_embeddings: tf.Tensor,
    is_own: tf.Tensor,
    beta: float,
) -> tf.Tensor:
    """−(β log σ(r⁺) + Σ_j log(1 − σ(r_j))) / (S + 1), the sum over drawn items j that aren't the target.

    Source: gBCE of gSASRec (Petrov & Macdonald, RecSys 2023), where each target has negatives of its own; here all share S.

    Args:
        session_embeddings: `<float>[N, D]`
        label_embeddings: `<float>[N, D]` of the targets
        negative_embeddings: `<float>[S, D]` of the drawn items
        is_own: `<bool>[N, S]` whether the drawn item is the target itself; it is left out then.
        beta: of `gbce_beta`

    Returns:
        `<float>[N]`

    Example: r⁺ = ln 3, two negatives with r = 0 and −ln 3, β = 0.5: σ = 3/4, 1/2, 1/4, and the loss is
    −(0.5 ln 0.75 + ln 0.5 + ln 0.75)/3 = 0.3749.
    """
    positive = tf.nn.softplus(-tf.reduce_sum(session_embeddings * label_embeddings, -1))
    negative = tf.nn.softplus(tf.matmul(session_embeddings, negative_embeddings, transpose_b=True))
    negative = tf.reduce_sum(tf.where(is_own, tf.zeros_like(negative), negative), -1)
    return (beta * positive + negative) / tf.cast(tf.shape(negative_embeddings)[0] + 1, negative.dtype)


def gbce_beta(n_negatives: int, n_items: int, t: float) -> float:
    """gBCE's β = α(t(1 − 1/α) + 1/α) with the sampling rate α = negatives / (V − 1), 1 at most.

    Example: 256 negatives of 1,025 items, α = 0.25: β = 1 for t = 0, 0.4375 for t = 0.75, 0.25 = α for t = 1.
    """
    alpha = min(n_negatives / max(n_items - 1, 1), 1.0)
    return alpha * (t * (1 - 1 / alpha) + 1 / alpha)


def _softmax_and_log_loss(sessions: tf.Tensor, items: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`softmax_j(e_j · s)` [N, V] and its −log at position [N].

    A probability next to nothing is rare, and its logarithm no longer exact: then it is the score's distance to the largest
    one, whose probability is never below 1/V. To find that takes two passes, as long as the softmax itself, and the scores
    anew: since nothing else needs them, TensorFlow writes the softmax over them.
    """

    def score() -> tf.Tensor:
        return tf.matmul(sessions, items, transpose_b=True)

    def by_largest() -> tf.Tensor:
        scores = score()
        distance = tf.reduce_max(scores, 1) - tf.gather(scores, position, batch_dims=1)
        return distance - tf.math.log(tf.reduce_max(probability, 1))

    probability = tf.nn.softmax(score())
    found = tf.gather(probability, position, batch_dims=1)
    is_exact = tf.reduce_all(found > _LEAST_PROBABILITY)
    return probability, tf.cond(is_exact, lambda: -tf.math.log(found), by_largest)


def _sum_to_items(probability: tf.Tensor, sessions: tf.Tensor) -> tf.Tensor:
    """Pᵀ S [V, D] as (Sᵀ P)ᵀ, in two thirds of the time: a product reads a transposed factor slowly, and S is the small one."""
    return tf.transpose(tf.matmul(sessions, probability, transpose_a=True))


def _gradient_to_sessions(
    probability: tf.Tensor, items: tf.Tensor, position: tf.Tensor, upstream: tf.Tensor
) -> tf.Tensor:
    return upstream[:, tf.newaxis] * (tf.matmul(probability, items) - tf.gather(items, position))


def _gradient_to_items(
    probability: tf.Tensor, sessions: tf.Tensor, position: tf.Tensor, upstream: tf.Tensor
) -> tf.Tensor:
    # The upstream gradient scales the sessions, N · D numbers; TensorFlow's own scales the N · V of the softmax.
    scaled = upstream[:, tf.newaxis] * sessions
    return tf.tensor_scatter_nd_sub(_sum_to_items(probability, scaled), position[:, tf.newaxis], scaled)


def _log_loss(sessions: tf.Tensor, items: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
    """`<float>[N]` −log softmax_j(e_j · s) at position [N]."""

    @tf.custom_gradient
    def whole(sessions: tf.Tensor, items: tf.Tensor):
        probability, loss = _softmax_and_log_loss(sessions, items, position)

        def gradient(upstream: tf.Tensor):
            return (
                _gradient_to_sessions(probability, items, position, upstream),
                _gradient_to_items(probability, sessions, position, upstream),
            )

        return loss, gradient

    return whole(sessions, items)


def _log_sum_exp(sessions: tf.Tensor, items: tf.Tensor, is_excluded: tf.Tensor) -> tf.Tensor:
    """`<float>[N]` log Σ_j exp(e_j · s), without the excluded ones of [N, S]."""

    @tf.custom_gradient
    def whole(sessions: tf.Tensor, items: tf.Tensor):
        # Not −∞: where all are excluded, the softmax stays a number, and the log sum is next to nothing.
        scores = tf.where(is_excluded, sessions.dtype.min, tf.matmul(sessions, items, transpose_b=True))
        probability = tf.nn.softmax(scores)

        def gradient(upstream: tf.Tensor):
            upstream = upstream[:, tf.newaxis]
            return upstream * tf.matmul(probability, items), _sum_to_items(probability, upstream * sessions)

        return tf.reduce_max(scores, 1) - tf.math.log(tf.reduce_max(probability, 1)), gradient

    return whole(sessions, items)


def _add_exp(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """log(e^a + e^b), for finite a; b may be −∞."""
    return a + tf.nn.softplus(b - a)


def _log_loss_in_chunks(
    sessions: tf.Tensor, items: tf.Tensor, position: tf.Tensor, extra: tf.Tensor, chunk_size: tf.Tensor
) -> tf.Tensor:
    """`_log_loss` and the extra term [N], of chunk_size rows at a time; holds no chunk's scores for the gradient.

    The gradient's sums are made with the values, as if the upstream gradient were 1. A mean or sum over targets has the same
    for all of them, which then scales these sums. Otherwise the items' sum is made once more from recomputed scores.
    """
    n_sessions = tf.shape(sessions, chunk_size.dtype)[0]
    n_chunks = tf.cast(-(-n_sessions // chunk_size), tf.int32)

    def chunk(tensor: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
        begin = tf.cast(k, chunk_size.dtype) * chunk_size
        return tensor[begin : tf.minimum(begin + chunk_size, n_sessions)]

    def fold(body, state):
        # One chunk after the other: parallel ones would lie in memory together.
        state = tf.while_loop(
            lambda k, *_: k < n_chunks, lambda k, *state: (k + 1, *body(k, *state)), (0, *state), parallel_iterations=1
        )
        return state[1:]

    def parts(shape: list[int | None]) -> tf.TensorArray:
        return tf.TensorArray(sessions.dtype, n_chunks, element_shape=shape, infer_shape=False)

    @tf.custom_gradient
    def chunked(sessions: tf.Tensor, items: tf.Tensor, extra: tf.Tensor):
        def softmax_with_extra(k):
            probability, loss = _softmax_and_log_loss(chunk(sessions, k), items, chunk(position, k))
            total = _add_exp(loss, chunk(extra, k))
            return probability, total, tf.exp(loss - total)  # the items' share of the total, [chunk]

        def value_and_gradient(k, losses, shares, to_sessions, to_items):
            probability, loss, share = softmax_with_extra(k)
            to_chunk = _gradient_to_sessions(probability, items, chunk(position, k), share)
            to_items += _gradient_to_items(probability, chunk(sessions, k), chunk(position, k), share)
            return losses.write(k, loss), shares.write(k, share), to_sessions.write(k, to_chunk), to_items

        state = (parts([None]), parts([None]), parts([None, sessions.shape[1]]), tf.zeros_like(items))
        losses, shares, to_sessions, to_items = fold(value_and_gradient, state)
        share, to_sessions = shares.concat(), to_sessions.concat()

        def gradient(upstream: tf.Tensor):
            def items_of_chunk(k, to_items):
                probability, _, share = softmax_with_extra(k)
                scale = chunk(upstream, k) * share
                return (to_items + _gradient_to_items(probability, chunk(sessions, k), chunk(position, k), scale),)

            return (
                upstream[:, tf.newaxis] * to_sessions,
                tf.cond(
                    tf.reduce_all(upstream == upstream[0]),
                    lambda: upstream[0] * to_items,
                    lambda: fold(items_of_chunk, (tf.zeros_like(items),))[0],
                ),
                upstream * (1 - share),
            )

        return losses.concat(), gradient

    return chunked(sessions, items, extra)
