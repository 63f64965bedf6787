"""ScaNN: an approximate index of the catalogue, for those that are too large to be scored for each request.

In: the candidates of an export, and queries. Out: a pool of items that probably score best, for `recommender.py` to score and
order. An export with it needs the library's ops in every process that loads it, servers included. What the answers lose is
measured at the export (`fidelity.py`). An extra: `pip install fp-tfrs[scann]`.

Source: Guo et al., "Accelerating large-scale inference with anisotropic vector quantization" (ICML 2020); settings by the rules of
thumb of the library's docs/algorithms.md: under 20,000 items no approximation, from 100,000 on √V leaves.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from fp_tfrs.errors import RunError

NAMESPACE = "Scann"  # of the ops
_LEAST_HASHED, _LEAST_PARTITIONED = 20_000, 100_000
_SEARCHED_SHARE = 0.1  # of the leaves
_REORDERED = 4  # times as many as are asked for get exact products


class ScannIndex(tf.Module):
    """The index as variables of a SavedModel."""

    def __init__(self, candidates: np.ndarray, pool_size: int) -> None:
        """Builds it.

        Args:
            candidates: float32 [V, P]
            pool_size: N, how many items a query gets; V at most.

        Raises:
            RunError: ScaNN is not installed.
        """
        super().__init__(name="scann_index")
        register_ops()
        from scann import scann_ops

        n_items = len(candidates)
        builder = scann_ops.builder(candidates, pool_size, "dot_product")
        if n_items >= _LEAST_PARTITIONED:
            leaves = math.isqrt(n_items)
            builder = builder.tree(leaves, math.ceil(leaves * _SEARCHED_SHARE), training_sample_size=n_items)
        if n_items >= _LEAST_HASHED:
            builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(_REORDERED * pool_size)
        else:
            builder = builder.score_brute_force()
        self._pool_size = pool_size
        self.state = builder.build().serialize_to_module()

    def nearest(self, queries: tf.Tensor) -> tf.Tensor:
        """<int32>[B, N] columns for <float32>[B, P] queries, those with the highest products first; −1 = none."""
        from scann.scann_ops.py.scann_ops import ScannSearcher

        found, _ = ScannSearcher(self.state.recreate_handle()).search_batched(queries)
        found = tf.reshape(found, [tf.shape(queries)[0], -1])
        missing = self._pool_size - tf.shape(found)[1]  # of no queries it finds none
        return tf.pad(tf.cast(found, tf.int32), [[0, 0], [0, missing]], constant_values=-1)


def register_ops() -> None:
    """Makes TensorFlow know ScaNN's ops; RunError where it is not installed."""
    try:
        import scann.scann_ops  # noqa: F401 (its import registers them)
    except ImportError as error:
        raise RunError(
            f"serving.index: scann needs ScaNN ({error}): pip install 'fp-tfrs[scann]', under Python 3.10, since no ScaNN is "
            "made for TensorFlow 2.21"
        ) from None
