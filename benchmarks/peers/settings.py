"""What is compared with RecBole, and by which settings: the one place that both sides' programs read.

Plain data, which each side's Python can import: the project's own, and that of `setup.sh` with RecBole.

A *target* is one event that is predicted from the events of its session before it, at most `MAX_PREFIX` of them. RecBole
makes a row of every prefix, the project one pass over all positions of a session: the pairs of prefix and target are the same.
"""

from __future__ import annotations

import json
from typing import Any

DATASETS = {"movietweetings": 0.1, "diginetica": 0.03}  # and the share of their sessions that validates
TARGETS_PER_STEP = 2048  # RecBole's default; the project's sessions a batch are chosen so that its mean is this
# Whole batches of one, two, three and four targets: sessions of both logs are short, and the project's default, at most four,
# would make up to half of a batch padding. RecBole pads every prefix to MAX_PREFIX.
LENGTH_BUCKETS = (1, 2, 3, 4, 6, 9, 13, 20, 32)
LEAST_TRAINING_S = 3  # of a round: the others' turn has left caches and cores cold, and data pipelines start once
LEAST_LOADING_S = 1
MAX_PREFIX = 50  # RecBole's default; longer sessions are cut into pieces, for both sides
VALID_SEED = 1
EVAL_ROWS = 4096  # RecBole's default
DIM = 100
LEARNING_RATE = 1e-3
CLIP_NORM = 5.0
SEED = 1
TOP_K = 20
EQUAL = 0.995  # of the full softmax's best validation MRR@20
NEGATIVES = (2048, 8192)  # of the sampled softmax, where it is trained to its end: the default, and four times as many
THREADS = 2

# The project's towers in the variants that RecBole has, and RecBole's with the same sizes and dropout.
TOWERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gru4rec": (
        {"hidden_dim": 100, "has_gru_bias": False, "is_reset_after": True, "dropout_embedding": 0.3},
        {"model": "GRU4Rec", "hidden_size": 100, "num_layers": 1, "dropout_prob": 0.3},
    ),
    "narm": (
        {
            "hidden_dim": 100,
            "has_gru_bias": False,
            "is_reset_after": True,
            "dropout_embedding": 0.25,
            "dropout_context": 0.5,
        },
        {"model": "NARM", "hidden_size": 100, "n_layers": 1, "dropout_probs": [0.25, 0.5]},
    ),
    "stamp": ({}, {"model": "STAMP"}),
    "sr_gnn": ({}, {"model": "SRGNN", "step": 1}),
    "sasrec": (
        {
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": 256,
            "block": "post_norm",
            "is_embedding_scaled": False,
            "norm_epsilon": 1e-12,
            "max_positions": MAX_PREFIX + 1,  # validation ranks a piece whole, with its last event
            "dropout": 0.2,
        },
        {
            "model": "SASRec",
            "hidden_size": DIM,
            "n_layers": 2,
            "n_heads": 2,
            "inner_size": 256,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "hidden_dropout_prob": 0.2,
            "attn_dropout_prob": 0.2,
        },
    ),
}


def of(tower: str) -> dict[str, Any]:
    """What is set here for a tower, as JSON has it."""
    values = {name: value for name, value in globals().items() if name.isupper()}
    return json.loads(json.dumps({**values, "TOWERS": TOWERS[tower]}))
