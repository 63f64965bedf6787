"""Next-item losses: session embeddings at targets and item embeddings in, a loss for each target out.

Pure functions of tensors; `task.py` reduces their values and adds the metric term of `losses.py`.

Source: eqs. 4 and 5 of FP-AdaMetric (Jeong et al., AAAI 2022): the score r of an item is its dot product with the session
embedding, the loss −log softmax(r) at the target.
"""

from __future__ import annotations

import tensorflow as tf

from fp_tfrs.schema import FIRST_ITEM_INDEX

_MAX_LOGIT_BYTES = 256 * 2**20


def next_item_loss(
    session_embeddings: tf.Tensor,
    item_embeddings: tf.Tensor,
    label: tf.Tensor,
    max_logit_bytes: int = _MAX_LOGIT_BYTES,
) -> tf.Tensor:
    """`softmax_loss` at every target of a padded batch; padding and out of vocabulary are never scored.

    Args:
        session_embeddings: `<float>[B, T, D]`
        item_embeddings: `<float>[V, D]`, the table's rows FIRST_ITEM_INDEX..
        label: `<int>[B, T]` item index of the target; below FIRST_ITEM_INDEX there is none.
        max_logit_bytes: see `softmax_loss`.

    Returns:
        `<float>[N]`, one for each of the N targets, in order of B, then T.
    """
    is_target = label >= FIRST_ITEM_INDEX
    position = tf.boolean_mask(label, is_target) - FIRST_ITEM_INDEX
    sessions = tf.boolean_mask(session_embeddings, is_target)
    return softmax_loss(sessions, item_embeddings, position, None, max_logit_bytes)


def softmax_loss(
    session_embeddings: tf.Tensor,
    item_embeddings: tf.Tensor,
    position: tf.Tensor,
    extra_log_weight: tf.Tensor | None = None,
    max_logit_bytes: int = _MAX_LOGIT_BYTES,
) -> tf.Tensor:
    """−log( e^r⁺ / (Σ_j e^r_j + e^extra) ) over the whole catalogue, r_j = e_j · s (eqs. 4, 5 without extra).

    Args:
        session_embeddings: `<float>[N, D]` s, one for each target
        item_embeddings: `<float>[V, D]` e
        position: `<int>[N]` row of the target's item in item_embeddings
        extra_log_weight: `<float>[N]` log of what the denominator has besides the items, −inf for nothing; None: no such term
        max_logit_bytes: what the logits and their softmax may take together. More targets than fit are done in chunks,
            whose logits are computed once more for the gradient: a third more multiplications.

    Returns:
        `<float>[N]`, differentiable in the three float arguments.

    Example: with embeddings 1, 0, −1 of three items (D = 1), session embedding ln 2 and the first item as target, the
    scores are ln 2, 0, −ln 2, the probabilities 2/3.5, 1/3.5, 0.5/3.5, and the loss is ln(3.5/2) = 0.5596. An extra log
    weight of ln 0.5 makes it ln(4/2) = 0.6931.
    """
    session_embeddings, item_embeddings = (
        tf.convert_to_tensor(session_embeddings),
        tf.convert_to_tensor(item_embeddings),
    )
    n_items = tf.shape(item_embeddings, tf.int64)[0]
    n_fitting = tf.maximum(max_logit_bytes // (2 * session_embeddings.dtype.size * n_items), 1)
    log_sum = tf.cond(
        tf.shape(session_embeddings, tf.int64)[0] <= n_fitting,
        lambda: _log_sum_exp(session_embeddings, item_embeddings),
        lambda: _log_sum_exp_in_chunks(session_embeddings, item_embeddings, n_fitting),
    )
    if extra_log_weight is not None:
        log_sum += tf.nn.softplus(extra_log_weight - log_sum)
    return log_sum - tf.reduce_sum(session_embeddings * tf.gather(item_embeddings, position), -1)


def _softmax_and_log_sum(sessions: tf.Tensor, items: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """`softmax_j(e_j · s)` [N, V] and `log Σ_j exp(e_j · s)` [N].

    The largest probability is exp(largest score − log sum), which gives the log sum without another exponential of all
    scores; it is never below 1/V, so its logarithm is exact enough. TensorFlow's softmax is its fastest way over the rows.
    """
    scores = tf.matmul(sessions, items, transpose_b=True)
    probability = tf.nn.softmax(scores)
    return probability, tf.reduce_max(scores, 1) - tf.math.log(tf.reduce_max(probability, 1))


@tf.custom_gradient
def _log_sum_exp(sessions: tf.Tensor, items: tf.Tensor):
    # The upstream gradient scales the sessions, N · D numbers; TensorFlow's own gradient scales the N · V of the softmax.
    probability, log_sum = _softmax_and_log_sum(sessions, items)

    def gradient(upstream: tf.Tensor):
        upstream = upstream[:, tf.newaxis]
        return (
            upstream * tf.matmul(probability, items),
            tf.matmul(probability, upstream * sessions, transpose_a=True),
        )

    return log_sum, gradient


def _log_sum_exp_in_chunks(sessions: tf.Tensor, items: tf.Tensor, chunk_size: tf.Tensor) -> tf.Tensor:
    """`_log_sum_exp` of chunk_size rows at a time; holds no chunk's scores for the gradient."""
    n_sessions = tf.shape(sessions, chunk_size.dtype)[0]
    n_chunks = -(-n_sessions // chunk_size)

    def rows(tensor: tf.Tensor, k: tf.Tensor) -> tf.Tensor:
        return tensor[k * chunk_size : tf.minimum((k + 1) * chunk_size, n_sessions)]

    def fold(body, state):
        # One chunk after the other: parallel ones would lie in memory together.
        k = tf.zeros([], chunk_size.dtype)
        return tf.while_loop(
            lambda k, *_: k < n_chunks, lambda k, *state: (k + 1, *body(k, *state)), (k, *state), parallel_iterations=1
        )[1:]

    def parts(shape):
        return tf.TensorArray(sessions.dtype, tf.cast(n_chunks, tf.int32), element_shape=shape, infer_shape=False)

    @tf.custom_gradient
    def chunked(sessions: tf.Tensor, items: tf.Tensor):
        def log_sum_of_chunk(k, log_sums):
            _, log_sum = _softmax_and_log_sum(rows(sessions, k), items)
            return (log_sums.write(tf.cast(k, tf.int32), log_sum),)

        def gradient(upstream: tf.Tensor):
            def gradient_of_chunk(k, to_sessions, to_items):
                probability, _ = _softmax_and_log_sum(rows(sessions, k), items)
                upstream_here = rows(upstream, k)[:, tf.newaxis]
                to_chunk = upstream_here * tf.matmul(probability, items)
                to_items += tf.matmul(probability, upstream_here * rows(sessions, k), transpose_a=True)
                return to_sessions.write(tf.cast(k, tf.int32), to_chunk), to_items

            to_sessions, to_items = fold(gradient_of_chunk, (parts([None, sessions.shape[1]]), tf.zeros_like(items)))
            return to_sessions.concat(), to_items

        (log_sums,) = fold(log_sum_of_chunk, (parts([None]),))
        return log_sums.concat(), gradient

    return chunked(sessions, items)
