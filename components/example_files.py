"""What stock nodes must be told of an Examples artifact that is written here: its splits, and how its files are to be read."""

from __future__ import annotations

from collections.abc import Sequence

from tfx.components.example_gen import utils as example_gen_utils
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils, standard_artifacts


def describe(examples: standard_artifacts.Examples, splits: Sequence[str]) -> None:
    """Says that the artifact has `Split-<split>` folders with GZIP TFRecords of `tf.train.Example`."""
    examples.split_names = artifact_utils.encode_split_names(list(splits))
    examples.set_string_custom_property(
        example_gen_utils.PAYLOAD_FORMAT_PROPERTY_NAME,
        example_gen_pb2.PayloadFormat.Name(example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE),
    )
    examples.set_string_custom_property(example_gen_utils.FILE_FORMAT_PROPERTY_NAME, "tfrecords_gzip")
