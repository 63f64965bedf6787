"""XDM's attention in the precision that models are trained in."""

import numpy as np
import pytest
import tensorflow as tf

from fp_tfrs.config import ModelConfig
from fp_tfrs.learning.unclicked_branch import UnclickedBranch

D = 6


@pytest.mark.parametrize("spread", [45, 60, 90])
def test_float32_has_a_gradient_where_a_list_lacks_what_attracts_most(spread):
    """Energies of the item that attends: spread, 0, 0; its list has the last two."""
    config = ModelConfig.model_validate(
        {"method": "vanilla", "tower": {"name": "stamp", "embedding_dim": D}, "xdm": {"n_heads": 1}}
    )
    branch = UnclickedBranch(config, 5)
    size = np.sqrt(spread) * D**0.25
    for kernel in branch.attention[:2]:
        kernel.assign(np.eye(D))
    items = tf.constant(np.array([[1, 0, 0], [0, 0, 1], [1, 1, 0]])[None] @ np.eye(3, D) * size, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(items)
        found = branch.encode(items, tf.constant([[[False, True, True], [True, False, True]]]))
        cost = tf.reduce_sum(found * tf.range(float(D)))
    assert all(np.isfinite(x).all() for x in (found, *tape.gradient(cost, [items, *branch.attention])))
