"""Data set by name → its events as record files, made once → rows: what `sources.py` reads for `format: tfds`.

The files lie under `<data_dir>/<name>/<config>/<version>/` as TFDS lays them out, with the features' types, the licence
and what they were made of beside them. They are read back with that description alone, without the builder. They are
made anew when a file of `manual_dir` is another one than they were made of.

TensorFlow Datasets is imported when it is needed: it takes a second, and TensorFlow several.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fp_tfrs import datasets
from fp_tfrs.config import SourceConfig
from fp_tfrs.errors import InputError
from fp_tfrs.progress import Progress, say

BEAM_BYTES = 1 << 30
"""Published files of more than this are read by one process per core."""
_BATCH_ROWS = 4_096
_STORED = {"b": "int64", "i": "int64", "f": "float32", "O": "string"}  # NumPy's kind → a type of tf.train.Example


def prepare(source: SourceConfig) -> list[str]:
    """The files of the data set's events, made if they are not there.

    Args:
      source: of `format: tfds`.

    Raises:
      InputError: there is no such data set or config, its published files are missing or do not fit, or the files can't
        be written.
    """
    with contextlib.redirect_stdout(sys.stderr):  # TFDS prints what it does
        builder = _find_builder(source)
        folder = _expand(source.manual_dir)
        try:
            raw_files = builder.raw_files(folder) if folder else None
        except InputError as error:
            raise InputError(f"{error}\n{builder.MANUAL_DOWNLOAD_INSTRUCTIONS.strip()}") from error
        if raw_files is None and not builder.is_prepared() and builder.url is None:
            instructions = builder.MANUAL_DOWNLOAD_INSTRUCTIONS.strip()
            raise InputError(
                f"data.source.manual_dir: {source.name} is not fetched for you; name a folder. {instructions}"
            )
        if not builder.is_prepared() or raw_files not in (None, _made_of(builder)):
            _make(builder, folder, sum(size for _, size, _ in raw_files or ()))
    split = builder.info.splits[datasets.SPLIT]
    return [os.fspath(path) for path, length in zip(split.filepaths, split.shard_lengths, strict=True) if length]


def _find_builder(source: SourceConfig) -> Any:
    if source.name not in datasets.NAMES:
        raise InputError(f"data.source.name: no data set {source.name!r}; there are: {', '.join(datasets.NAMES)}")
    import tensorflow_datasets as tfds

    importlib.import_module(f"fp_tfrs.datasets.{source.name}")  # registers the builder
    try:
        return tfds.builder(source.name, config=source.config, data_dir=_expand(source.data_dir), try_gcs=False)
    except ValueError as error:
        raise InputError(f"data.source.config: {str(error).splitlines()[0]}") from error


def _expand(path: str | None) -> str | None:
    if path is None:
        return None
    expanded = os.path.expanduser(os.path.expandvars(path))
    if "$" in expanded:
        raise InputError(f"data.source: {path} uses a variable that is not set; export it first")
    return expanded


def _made_of(builder: Any) -> Any:
    from fp_tfrs.datasets import event_log

    return builder.info.metadata[event_log.RAW_FILES]


def _make(builder: Any, folder: str | None, n_bytes: int) -> None:
    import tensorflow_datasets as tfds

    from fp_tfrs.datasets import event_log

    options: dict[str, Any] = {}
    if n_bytes > BEAM_BYTES:
        from apache_beam.options.pipeline_options import PipelineOptions

        # Beam starts its workers by a shell command in which it does not quote Python's path: with a space they never start.
        mode = "in_memory" if " " in sys.executable else "multi_processing"
        workers = PipelineOptions(direct_num_workers=0, direct_running_mode=mode)
        options = {"beam_runner": "FnApiRunner", "beam_options": workers}
    say(f"{builder.info.full_name}: preparing its events in {builder.data_dir}")
    settings = tfds.download.DownloadConfig(
        manual_dir=folder,
        download_mode=tfds.download.GenerateMode.REUSE_CACHE_IF_EXISTS,  # fetched files are kept, events are not
        try_download_gcs=False,
        **options,
    )
    tfds.disable_progress_bar()  # we show our own
    with Progress(None, f"preparing {builder.name}", "rows") as progress:
        event_log.rows_made = progress.advance
        try:
            builder.download_and_prepare(download_config=settings)
        except InputError:
            raise
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(f"the data set {builder.name} can't be prepared: {reason}") from error
        finally:
            event_log.rows_made = None


def _open(path: str) -> tuple[Any, int]:
    """The data set that a file of `prepare` belongs to, and the file's number in it."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(os.path.dirname(path))
    return builder, builder.info.splits[datasets.SPLIT].filenames.index(os.path.basename(path))


def column_names(path: str) -> list[str]:
    """The columns of a file of `prepare`."""
    builder, _ = _open(path)
    return list(builder.info.features)


def count_rows(path: str) -> int:
    """How many rows a file of `prepare` has."""
    builder, number = _open(path)
    return int(builder.info.splits[datasets.SPLIT].shard_lengths[number])


def read_rows(path: str, columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    """The rows of a file of `prepare`, in order: column → str, int, float or bool.

    Args:
      path: the file.
      columns: read these only; None = all.
    """
    import tensorflow as tf

    features = _open(path)[0].info.features
    names = tuple(features) if columns is None else tuple(columns)
    kinds = {name: np.dtype(features[name].np_dtype).kind for name in names}
    # Many records at a time: TFDS' own reader parses them one by one, which takes 19 times as long.
    spec = {name: tf.io.FixedLenFeature((), tf.dtypes.as_dtype(_STORED[kind])) for name, kind in kinds.items()}
    batches = tf.data.TFRecordDataset(path).batch(_BATCH_ROWS).map(lambda records: tf.io.parse_example(records, spec))
    for batch in batches.prefetch(1).as_numpy_iterator():
        for values in zip(*(_to_list(batch[name], kinds[name]) for name in names)):
            yield dict(zip(names, values))


def _to_list(column: Any, kind: str) -> list[Any]:
    if kind == "b":
        column = column.astype(bool)
    values: list[Any] = column.tolist()
    return [value.decode() for value in values] if kind == "O" else values
