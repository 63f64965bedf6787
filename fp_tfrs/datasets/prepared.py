"""Data set by name → its events as record files, made once → rows: what `sources.py` reads for `format: tfds`.

The files lie under `<data_dir>/<name>/<config>/<version>/` as TFDS lays them out, with the features' types, the licence
and what they were made of beside them. They are read back with that description alone, without the builder. They are
made anew when a file of `manual_dir` is another one than they were made of, by one run at a time.

The folder may come from others. TFDS would import the module of every class that a description names, so that it is read
here as the plain data that it is; and no name in it leads out of the folder.

TensorFlow Datasets is imported when it is needed: it takes a second, and TensorFlow several.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from fp_tfrs import datasets, storage
from fp_tfrs.config import SourceConfig
from fp_tfrs.errors import InputError
from fp_tfrs.progress import Progress, say

BEAM_BYTES = 1 << 30
"""Published files of more than this are read by one process per core."""
_BATCH_ROWS = 4_096
_TEXT = "text"
_STORED = {
    "int64": "int64",
    "bool": "int64",
    "float32": "float32",
    _TEXT: "string",
}  # kind → a type of tf.train.Example
_CLASSES = "tensorflow_datasets.core.features."  # where the classes of features are that TFDS has written down
_METADATA = "metadata.json"  # where TFDS writes what a builder has noted
_SHARD = re.compile(r"-(\d+)-of-\d+")


class _Description(NamedTuple):
    """What a folder of prepared files says of them. kinds: column → key of `_STORED`; rows: of each file, in order."""

    kinds: dict[str, str]
    rows: list[int]


def prepare(source: SourceConfig) -> list[str]:
    """The files of the data set's events, made if they are not there.

    Args:
      source: of `format: tfds`.

    Raises:
      InputError: there is no such data set or config, its published files are missing or do not fit, the files can't be
        written, or those that are there are none that this has made.
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
        if not _is_made(builder, raw_files):
            with _locked(builder):
                builder = _find_builder(source)  # another run may have made them, before the lock was ours
                if not _is_made(builder, raw_files):
                    _make(builder, folder, sum(size for _, size, _ in raw_files or ()))
    return _find_files(builder)


def _is_made(builder: Any, raw_files: Any) -> bool:
    """Are the files there, and made of these? None: of whatever."""
    return builder.is_prepared() and raw_files in (None, _made_of(builder))


@contextlib.contextmanager
def _locked(builder: Any) -> Iterator[None]:
    """Only one run at a time makes a data set on a disk: what is there is deleted first."""
    data_dir = os.fspath(builder.data_dir)
    if not storage.is_local(data_dir):
        yield
        return
    try:
        storage.make_folder(storage.parent(data_dir))
        file = open(f"{data_dir}.lock", "wb")  # noqa: SIM115  (closed below)
    except OSError as error:
        raise InputError(f"the data set {builder.name} can't be prepared: {data_dir}: {error.strerror}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{builder.info.full_name}: waiting for another run, which prepares it in {data_dir}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def made_of(path: str) -> str:
    """What the files of `prepare` beside this one, and it, say that they were made of; "" if nothing."""
    try:
        return storage.read_text(os.path.join(os.path.dirname(path), _METADATA))
    except (OSError, UnicodeDecodeError):
        return ""


def _find_files(builder: Any) -> list[str]:
    """The files that have rows, all of them in the data set's own folder."""
    data_dir = os.fspath(builder.data_dir)
    _describe(data_dir)
    try:
        split = builder.info.splits[datasets.SPLIT]
        paths = [os.fspath(path) for path, length in zip(split.filepaths, split.shard_lengths, strict=True) if length]
    except Exception as error:  # TFDS fills in the pattern of the names, which may be anything
        raise _unusable(data_dir, f"dataset_info.json has no files of {datasets.SPLIT}: {error}") from error
    for path in paths:
        if os.path.dirname(path) != data_dir or not _SHARD.search(os.path.basename(path)):
            raise _unusable(data_dir, f"dataset_info.json leads to {path}, which is none of its files")
        if not storage.exists(path):
            raise _unusable(data_dir, f"{path} is missing")
    return paths


def _find_builder(source: SourceConfig) -> Any:
    if source.name not in datasets.NAMES:
        raise InputError(f"data.source.name: no data set {source.name!r}; there are: {', '.join(datasets.NAMES)}")
    import tensorflow_datasets as tfds

    importlib.import_module(f"fp_tfrs.datasets.{source.name}")  # registers the builder
    # TFDS looks for a config that the code does not have in files, and would run what they name.
    configs = list(tfds.builder_cls(source.name).builder_configs)
    if source.config is not None and source.config not in configs:
        known = f"there are: {', '.join(configs)}" if configs else "it has none; leave it out"
        raise InputError(f"data.source.config: {source.config!r} not found for {source.name}; {known}")
    data_dir = _expand(source.data_dir)
    try:
        return tfds.builder(source.name, config=source.config, data_dir=data_dir, try_gcs=False)
    except Exception as error:  # whatever TFDS makes of a dataset_info.json that it has not written
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise _unusable(os.path.join(data_dir or "~/tensorflow_datasets", source.name), reason) from error


def _expand(path: str | None) -> str | None:
    if path is None:
        return None
    expanded = os.path.expanduser(os.path.expandvars(path))
    if "$" in expanded:
        raise InputError(f"data.source: {path} uses a variable that is not set; export it first")
    return expanded


def _made_of(builder: Any) -> Any:
    from fp_tfrs.datasets import event_log

    try:
        return builder.info.metadata[event_log.RAW_FILES]
    except (KeyError, ValueError, TypeError, RecursionError):
        return None  # no metadata.json, or none of ours: made of something else


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


def _unusable(folder: str, reason: str) -> InputError:
    return InputError(
        f"the prepared data set {folder} can't be used: {reason}; delete that folder to have it made anew"
    )


def _describe(folder: str) -> _Description:
    """What a folder of prepared files says of them, read without importing anything that it names."""
    from google.protobuf import json_format
    from tensorflow_datasets.core.proto import dataset_info_generated_pb2, feature_generated_pb2

    features, info = feature_generated_pb2.Feature(), dataset_info_generated_pb2.DatasetInfo()
    for name, message in (("features.json", features), ("dataset_info.json", info)):
        try:
            json_format.Parse(storage.read_text(os.path.join(folder, name)), message)
        # TypeError: JSON that is no object
        except (OSError, UnicodeDecodeError, json_format.Error, RecursionError, TypeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise _unusable(folder, f"{name} can't be read: {reason}") from error
    kinds = {name: _kind(folder, name, feature) for name, feature in features.features_dict.features.items()}
    if not kinds or not features.python_class_name.startswith(_CLASSES):
        raise _unusable(
            folder, f"features.json has a {features.python_class_name or 'nameless class'} without features"
        )
    rows = [list(split.shard_lengths) for split in info.splits if split.name == datasets.SPLIT]
    if len(rows) != 1 or min(rows[0], default=0) < 0:
        raise _unusable(folder, f"dataset_info.json has no files of {datasets.SPLIT}")
    return _Description(kinds, rows[0])


def _kind(folder: str, name: str, feature: Any) -> str:
    """Key of `_STORED`."""
    if not feature.python_class_name.startswith(_CLASSES):
        named = feature.python_class_name or "no class"
        raise _unusable(folder, f"features.json names {named} for {name!r}, which is no feature of TensorFlow Datasets")
    kind: str = _TEXT if feature.WhichOneof("content") == "text" else feature.tensor.dtype
    if kind not in _STORED or feature.tensor.shape.dimensions:
        raise _unusable(folder, f"features.json has {name!r} as neither a text nor a number of {', '.join(_STORED)}")
    return kind


def column_names(path: str) -> list[str]:
    """The columns of a file of `prepare`; raises as `count_rows`."""
    return sorted(_describe(os.path.dirname(path)).kinds)


def count_rows(path: str) -> int:
    """How many rows a file of `prepare` has.

    Raises:
      InputError: what lies beside it does not say so.
    """
    folder, name = os.path.split(path)
    rows = _describe(folder).rows
    number = _SHARD.search(name)
    if number is None or int(number[1]) >= len(rows):
        raise _unusable(folder, f"dataset_info.json does not know {name}")
    return rows[int(number[1])]


def read_rows(path: str, columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    """The rows of a file of `prepare`, in order: column → str, int, float or bool.

    Args:
      path: the file.
      columns: read these only; None = all.

    Raises:
      InputError: the file, or what lies beside it, is none that `prepare` has made.
    """
    import tensorflow as tf

    folder = os.path.dirname(path)
    kinds = _describe(folder).kinds
    names = tuple(sorted(kinds)) if columns is None else tuple(columns)
    missing = [name for name in names if name not in kinds]
    if missing:
        raise _unusable(folder, f"features.json has no {missing[0]!r}")
    if not storage.has_whole_records(path):
        raise _unusable(folder, f"a record of {os.path.basename(path)} ends after the file does")
    # Many records at a time: TFDS' own reader parses them one by one, which takes 19 times as long.
    spec = {name: tf.io.FixedLenFeature((), tf.dtypes.as_dtype(_STORED[kinds[name]])) for name in names}
    batches = tf.data.TFRecordDataset(path).batch(_BATCH_ROWS).map(lambda records: tf.io.parse_example(records, spec))
    try:
        for batch in batches.prefetch(1).as_numpy_iterator():
            for values in zip(*(_to_list(batch[name], kinds[name]) for name in names)):
                yield dict(zip(names, values))
    except (tf.errors.OpError, UnicodeDecodeError) as error:
        raise _unusable(folder, f"{os.path.basename(path)} can't be read: {str(error).splitlines()[0]}") from error


def _to_list(column: Any, kind: str) -> list[Any]:
    if kind == "bool":
        column = column.astype(bool)
    values: list[Any] = column.tolist()
    return [value.decode() for value in values] if kind == _TEXT else values
