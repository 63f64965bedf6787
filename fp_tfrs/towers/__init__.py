"""Session towers: one file and one paper each; sessions of item embeddings in, one session embedding per prefix out.

A tower is a `tf.keras.layers.Layer` made from its config section and a seed. It is called as

    tower(TowerInputs, training) → session_embeddings <float>[B, T, D]

(see `inputs.py`), where the embedding at position t depends on positions ≤ t of its own session only, and is zero at
padding. A new tower is a file, a section in `config/towers.py` and a line here.
"""

from __future__ import annotations

import tensorflow as tf

from fp_tfrs.config import TowerConfig
from fp_tfrs.towers.gru4rec import Gru4RecTower
from fp_tfrs.towers.narm import NarmTower
from fp_tfrs.towers.sasrec import SasRecTower
from fp_tfrs.towers.sdm import SdmTower
from fp_tfrs.towers.sr_gnn import SrGnnTower
from fp_tfrs.towers.stamp import StampTower

TOWERS = {
    "narm": NarmTower,
    "gru4rec": Gru4RecTower,
    "sasrec": SasRecTower,
    "sr_gnn": SrGnnTower,
    "stamp": StampTower,
    "sdm": SdmTower,
}


def build_tower(config: TowerConfig, seed: int) -> tf.keras.layers.Layer:
    """The tower that the section names; its weights and its dropout follow from the seed."""
    return TOWERS[config.name](config, seed, name=config.name)
