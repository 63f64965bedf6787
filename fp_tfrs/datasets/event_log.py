"""What all data set builders share: a folder of published files → one split of events, row by row, in TFDS' files.

In: the folder. Out: the split `events`, whose files are the folder's files cut in parts (`raw_files.py`), in their order.
TFDS holds the rows of one part in memory, however large the data set is, and with a Beam runner makes the parts in
parallel.
"""

from __future__ import annotations

import abc
import functools
import glob
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from fp_tfrs.datasets import SPLIT
from fp_tfrs.datasets.raw_files import TablePart, TextPart
from fp_tfrs.errors import InputError

RAW_FILES = "raw_files"  # in the data set's metadata: name, size and time of each file that it was made of
_REPORT_ROWS = 10_000
# What the reader of a part raises on values of other types, or on fields that are not there.
_BROKEN_ROW = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
_TYPES: dict[str, Any] = {
    "text": str,
    "b": (bool, np.bool_),
    "i": int,
    "f": (int, float),
}  # of values, by their feature
_MOST_SHOWN = 100  # characters of a value in a message

Part = TextPart | TablePart
PartReader = Callable[[Any], Iterator[dict[str, Any]]]

rows_made: Callable[[int], None] | None = None
"""Called now and then with a number of new rows, in the process that makes them; `prepared.py` sets it."""


@dataclass(frozen=True)
class About:
    """What is said of a data set, and how to get it.

    Attributes:
      description: what a row is, and what tells that a click was abandoned.
      homepage: the official page.
      citation: BibTeX of the paper to cite; "" if the publisher names none.
      license: the terms, in the publisher's words or in short.
      url: an official file that may be fetched without being asked; its checksum is in `checksums.tsv`. None: the user
        fetches the files.
    """

    description: str
    homepage: str
    citation: str
    license: str
    url: str | None = None


class EventLogBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A data set whose examples are events: clicks, or items that were shown.

    A subclass gives `ABOUT`, `FEATURES`, `VERSION`, `MANUAL_DOWNLOAD_INSTRUCTIONS` and `find_parts`. Features that all
    have where the data has them: `item_id`, `user_id`, `session_id` (text; "" = unknown) and `timestamp_ms` (int64, UTC).
    Feedback keeps its published name; a float that was not measured is NaN.
    """

    ABOUT: ClassVar[About]
    FEATURES: ClassVar[Mapping[str, Any]]

    @property
    def url(self) -> str | None:
        """The file that is fetched where the user gives no folder; None: none is."""
        return self.ABOUT.url

    @abc.abstractmethod
    def find_parts(self, folder: str) -> list[tuple[PartReader, Part]]:
        """The parts of the published files in `folder`, each with the function that makes its events.

        The functions are picklable; what they raise is `InputError`, or what Python does for a value of a wrong type.

        Raises:
          InputError: the folder lacks a file.
        """

    def raw_files(self, folder: str) -> list[list[Any]]:
        """Name, size in bytes and time of change in ns of each published file of `folder`.

        Raises:
          InputError: the folder lacks a file.
        """
        return _states(self.find_parts(folder))

    def _info(self) -> tfds.core.DatasetInfo:
        about = self.ABOUT
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(dict(self.FEATURES)),
            description=about.description,
            homepage=about.homepage,
            citation=about.citation,
            license=about.license,
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict({RAW_FILES: []}),
        )

    def _shard_iterators_per_split(
        self, dl_manager: tfds.download.DownloadManager
    ) -> Mapping[str, list[Callable[[], Iterator[tuple[int, dict[str, Any]]]]]]:
        parts = self.find_parts(os.fspath(self._folder(dl_manager)))
        self.info.metadata[RAW_FILES] = _states(parts)
        return {SPLIT: [self.numbered(read, part) for read, part in parts]}

    def numbered(self, read: PartReader, part: Part) -> Callable[[], Iterator[tuple[int, dict[str, Any]]]]:
        """Makes the events of a part, each with its number; they are sure to fit the features.

        The iterator raises `InputError`: the file is not as published; the message has the event's number.
        """
        kinds = {
            name: "text" if isinstance(kind, tfds.features.Text) else np.dtype(kind).kind
            for name, kind in self.FEATURES.items()
        }
        return functools.partial(_number_events, read, part, kinds)

    def _folder(self, dl_manager: tfds.download.DownloadManager) -> Any:
        """The user's folder if it has files, else what is fetched: a folder, or the one file."""
        if self.url is None:
            return dl_manager.manual_dir
        try:
            return dl_manager.manual_dir
        except AssertionError:  # TFDS': there is no such folder, or nothing in it
            return dl_manager.download_and_extract(self.url)


def _number_events(read: PartReader, part: Part, kinds: Mapping[str, str]) -> Iterator[tuple[int, dict[str, Any]]]:
    number = -1
    try:
        for event in read(part):
            _check_values(event, kinds)
            number += 1
            yield number, event
            if rows_made and number % _REPORT_ROWS == _REPORT_ROWS - 1:
                rows_made(_REPORT_ROWS)
    except InputError:
        raise
    except _BROKEN_ROW as error:
        raise InputError(f"{part.path}: event {number + 2} of {part} is broken: {error}; fetch it again") from error
    if rows_made:
        rows_made((number + 1) % _REPORT_ROWS)


def _check_values(event: Mapping[str, Any], kinds: Mapping[str, str]) -> None:
    """Raises ValueError: a value that its feature does not take; TFDS would not say whose it is."""
    for name, value in event.items():
        kind = kinds[name]
        is_fitting = isinstance(value, _TYPES[kind]) and (kind == "b" or not isinstance(value, bool))
        if kind == "i" and is_fitting:
            is_fitting = -(2**63) <= value < 2**63
        if not is_fitting:
            raise ValueError(f"{name} has the value {str(value)[:_MOST_SHOWN]!r}")
        if kind == "text" and not value.isascii():
            value.encode()  # JSON can hold what is no Unicode


def _states(parts: list[tuple[PartReader, Part]]) -> list[list[Any]]:
    states = []
    for path in dict.fromkeys(part.path for _, part in parts):
        state = os.stat(path)
        states.append([os.path.basename(path), state.st_size, state.st_mtime_ns])
    return states


def find_file(folder: str, *names: str) -> str:
    """The first of `names` that `folder` has, also one directory below; `folder` itself if it is a (fetched) file.

    Raises:
      InputError: it has none.
    """
    if os.path.isfile(folder):
        return folder
    below = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir()) if os.path.isdir(folder) else []
    for name in names:
        for place in (folder, *below):
            if os.path.isfile(path := os.path.join(place, name)):
                return path
    raise InputError(f"{folder} has no {' or '.join(names)}; put it there (see the data set's instructions)")


def find_files(folder: str, pattern: str) -> list[str]:
    """All files of `folder`, and of the folders in it, whose name fits the glob `pattern`, sorted.

    Raises:
      InputError: there is none.
    """
    place = glob.escape(folder)
    found = sorted([*glob.glob(os.path.join(place, pattern)), *glob.glob(os.path.join(place, "*", pattern))])
    if not found:
        raise InputError(f"{folder} has no {pattern}; put it there (see the data set's instructions)")
    return found
