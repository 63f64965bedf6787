"""The test targets with the rank that the model gave each: `tf.train.Example`s that TFX's stock nodes read.

In: what `evaluate.py` makes the model's own figures of. Out: one GZIP TFRecord file, one Example a target, in the order
of the targets. It is where TFMA's view of a model (`tfma_view.py`) starts, so that both views have one source of numbers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from fp_tfrs import schema, storage
from fp_tfrs.evaluation.targets import Targets

RANK = "rank"
IS_KEPT = "is_kept"
FILE_NAME = f"Split-{schema.TEST}/targets-00000-of-00001.gz"


def write_ranked_targets(
    ranks: np.ndarray, targets: Targets, slices: Mapping[str, Mapping[str, np.ndarray]], folder: str
) -> None:
    """Writes `FILE_NAME` by rename.

    Args:
        ranks: <int64>[n] of the targets, 1 = best.
        targets: whose kind, kept or abandoned, is written as `is_kept` 1 or 0.
        slices: of `slices.slice_targets`; each kind becomes a feature, the slice's name.
        folder: made if it is missing; standard as a folder of Examples with one split.
    """
    names = {kind: np.select(list(of.values()), list(of), default="") for kind, of in slices.items()}
    is_kept = ~targets.is_false_positive
    path = os.path.join(folder, FILE_NAME)
    storage.make_folder(os.path.dirname(path))
    with tf.io.TFRecordWriter(f"{path}.tmp", "GZIP") as writer:
        for row, rank in enumerate(ranks):
            features = {RANK: _int_feature(rank), IS_KEPT: _int_feature(is_kept[row])}
            for kind, name in names.items():
                features[kind] = tf.train.Feature(bytes_list=tf.train.BytesList(value=[name[row].encode()]))
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
    storage.move(f"{path}.tmp", path)


def _int_feature(value: int) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value)]))
