"""The Beam steps of `preprocess.py`: log files → events → sessions (→ histories, unclicked items) → splits → files.

What is shuffled is packed (`packing.py`), many rows to an element, since Beam's cost is per element. Counts come
out as one file of facts that is read when the pipeline has finished; runners' own counters may count retries twice.
"""

from __future__ import annotations

import collections
import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindows

from fp_tfrs import schema, storage
from fp_tfrs.config import DataConfig, HistoryConfig, UnclickedConfig
from fp_tfrs.data import examples, packing
from fp_tfrs.data.events import Event, Shown, Tally, read_events
from fp_tfrs.data.histories import add_histories
from fp_tfrs.data.sessions import Session, StartHistogram, assign_split, count_targets, cut_sessions
from fp_tfrs.data.since import find_since
from fp_tfrs.data.unclicked import add_unclicked, own_clicks, to_seen
from fp_tfrs.errors import InputError

FACTS_FILE = "facts.json"
_DEAD_LETTERS = "dead-letters"
_BATCH_ROWS = 100_000  # events that are grouped in memory before they are shuffled
_BATCH_ITEMS = 100_000
_BATCH_RECORDS = 10_000
_COUNTS, _RANGES, _STARTS, _ITEMS, _SEEN = "counts", "ranges", "starts", "items", "seen"

# Counts of one item: clicks in train, then how often it is a target in each split.
_IN_TRAIN = 0
_TARGET_IN = {split: 1 + number for number, split in enumerate(schema.SPLITS)}
_ITEM_COLUMNS = 1 + len(schema.SPLITS)

rows_read: Callable[[int], None] | None = None
"""Called with each batch's number of rows by workers in this process; `preprocess` sets it to show progress."""


def dead_letter_files(work_dir: str) -> list[str]:
    """The dead-letter files of a finished pipeline, in the order of the log's files."""
    folder = os.path.join(work_dir, _DEAD_LETTERS)
    return [os.path.join(folder, name) for name in storage.list_folder(folder) if name.endswith(".jsonl")]


class WriteSessions(beam.PTransform):
    """Log files → example files of all splits, dead letters and facts, under `work_dir`.

    Args:
      files: the log's files.
      data: how to read and divide them.
      seed: of a random split.
      work_dir: a folder that all workers can write to.
      latest_timestamp_s: events after it are bad rows.
    """

    def __init__(self, files: list[str], data: DataConfig, seed: int, work_dir: str, latest_timestamp_s: float):
        super().__init__()
        self._files = files
        self._data = data
        self._seed = seed
        self._work_dir = work_dir
        self._latest_timestamp_s = latest_timestamp_s

    def expand(self, pbegin: Any) -> beam.PCollection:
        data, work_dir = self._data, self._work_dir
        since_s = find_since(pbegin, self._files, data, self._latest_timestamp_s)
        read = (
            pbegin
            | "Files" >> beam.Create(list(enumerate(self._files)))
            | "SpreadFiles" >> beam.Reshuffle()
            | "ReadEvents"
            >> beam.ParDo(_ReadEvents(data, self._latest_timestamp_s, work_dir), since_s=since_s).with_outputs(
                _COUNTS, _RANGES, _SEEN, main="events"
            )
        )
        cut = (
            read.events
            | "GroupEvents" >> beam.GroupByKey()
            | "CutSessions" >> beam.ParDo(_CutSessions(data)).with_outputs(_COUNTS, _STARTS, main="sessions")
        )
        cuts_s = (
            cut[_STARTS]
            | "CountStarts" >> beam.CombineGlobally(_MergeStarts())
            | "FindCuts" >> beam.Map(_find_cuts, data)
        )
        sessions = cut.sessions
        if data.history is not None and data.columns.session_id is not None:  # else `_CutSessions` has done it
            sessions = (
                sessions
                | "KeyByUser" >> beam.Map(_key_by_user)
                | "GroupUsers" >> beam.GroupByKey()
                | "AddHistories" >> beam.FlatMap(_add_histories, data.history)
            )
        if data.unclicked is not None:
            sessions = (
                {"sessions": sessions | "KeyByViewer" >> beam.Map(_key_by_user), "seen": read[_SEEN]}
                | "GroupViewers" >> beam.CoGroupByKey()
                | "AddUnclicked" >> beam.FlatMap(_add_unclicked, data.unclicked)
            )
        split = sessions | "SplitSessions" >> beam.ParDo(
            _SplitSessions(data, self._seed), cuts_s=beam.pvalue.AsSingleton(cuts_s)
        ).with_outputs(_COUNTS, _RANGES, _ITEMS, main="examples")
        item_counts = (
            split[_ITEMS]
            | "CountItems" >> beam.CombinePerKey(_add_elementwise)
            | "JudgeItems" >> beam.ParDo(_JudgeItems(data.min_item_support))
        )
        shards = (
            split.examples
            | "GroupShards" >> beam.GroupByKey()
            | "WriteShards" >> beam.ParDo(_WriteShard(work_dir, data.shards))
        )
        counts = (
            (read[_COUNTS], cut[_COUNTS], split[_COUNTS], item_counts)
            | "AllCounts" >> beam.Flatten()
            | "SumCounts" >> beam.CombinePerKey(sum)
            | "NameCounts" >> beam.Map(_name_fact, _COUNTS)
        )
        ranges = (
            (read[_RANGES], split[_RANGES])
            | "AllRanges" >> beam.Flatten()
            | "WidenRanges" >> beam.CombinePerKey(_widen)
            | "NameRanges" >> beam.Map(_name_fact, _RANGES)
        )
        return (
            (counts, ranges, shards)
            | "AllFacts" >> beam.Flatten()
            | "CollectFacts" >> beam.combiners.ToList()
            | "WriteFacts" >> beam.Map(_write_facts, os.path.join(work_dir, FACTS_FILE))
        )


class _ReadEvents(beam.DoFn):
    """(number, path) → (session key, its events in a batch of rows) and the file's tally; writes its dead letters.

    With `data.unclicked` also (user as in `_key_by_user`, what the user has `Seen` in a batch of rows), all clicks
    included: of those that are in no session, too, it must be known that they were clicked.
    """

    def __init__(self, data: DataConfig, latest_timestamp_s: float, work_dir: str):
        self._data = data
        self._latest_timestamp_s = latest_timestamp_s
        self._folder = os.path.join(work_dir, _DEAD_LETTERS)

    def process(self, file: tuple[int, str], since_s: float) -> Iterator[Any]:
        number, path = file
        tally = Tally()
        storage.make_folder(self._folder)
        failure = None
        with storage.replacing(os.path.join(self._folder, f"{number:06d}.jsonl"), "w") as dead_letters:
            events = read_events(path, self._data, self._latest_timestamp_s, tally, dead_letters, since_s)
            try:
                yield from self._group(events, tally)
            except InputError as error:
                failure = str(error)
        if failure:
            yield beam.pvalue.TaggedOutput(_COUNTS, (("failed file", failure), 1))
        yield beam.pvalue.TaggedOutput(_RANGES, (("since", ""), (since_s, since_s)))
        for name in ("rows", "older", "impressions", "clicks"):
            yield beam.pvalue.TaggedOutput(_COUNTS, ((name, ""), getattr(tally, name)))
        for reason, count in tally.bad.items():
            yield beam.pvalue.TaggedOutput(_COUNTS, (("bad", reason), count))
        for rule, count in tally.rule_hits.items():
            yield beam.pvalue.TaggedOutput(_COUNTS, (("rule", str(rule)), count))
        for column, bounds in tally.ranges.items():
            yield beam.pvalue.TaggedOutput(_RANGES, (("feedback", column), bounds))

    def _group(self, events: Iterator[Event | Shown], tally: Tally) -> Iterator[Any]:
        reported, unclicked = 0, self._data.unclicked
        while batch := list(itertools.islice(events, _BATCH_ROWS)):
            groups: dict[str, list[tuple[Any, ...]]] = {}
            seen: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
            for event in batch:
                if isinstance(event, Event):
                    groups.setdefault(event.session_key, []).append(event[1:])
                if unclicked is not None and event.user_id:
                    seen.setdefault((event.user_id, ""), []).append(tuple(to_seen(event, unclicked)))
            yield from ((key, packing.pack_rows(rows)) for key, rows in groups.items())
            yield from (beam.pvalue.TaggedOutput(_SEEN, (key, packing.pack_rows(rows))) for key, rows in seen.items())
            if rows_read:
                rows_read(tally.read - reported)
            reported = tally.read
        if rows_read:
            rows_read(tally.read - reported)


class _CutSessions(beam.DoFn):
    """(session key, its batches of events) → packed sessions, counts, and a histogram of their starts.

    Where the key is the user, all of the user's sessions are here, and get their histories at once.
    """

    def __init__(self, data: DataConfig):
        self._data = data

    def start_bundle(self) -> None:
        self._counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self._starts = StartHistogram()

    def process(self, element: tuple[str, Iterable[bytes]]) -> Iterator[Any]:
        key, batches = element
        columns, history = self._data.columns, self._data.history
        cut = cut_sessions(
            key,
            packing.unpack_rows(batches),
            self._data.sessions,
            tuple(columns.feedback),
            has_session_id=columns.session_id is not None,
        )
        self._counts["keys", ""] += 1
        for name in ("duplicate_events", "short_sessions", "short_events", "cut_events", "tied_events", "shared_keys"):
            self._counts[name, ""] += getattr(cut, name)
        sessions: Iterable[Session] = cut.sessions
        if history is not None and columns.session_id is None:
            sessions = add_histories(sessions, history)
        for session in sessions:
            self._starts.add(session.timestamp_s[0])
            yield packing.pack_session(session)

    def finish_bundle(self) -> Iterator[Any]:
        yield from _tagged(_COUNTS, self._counts.items())
        yield from _tagged(_STARTS, [self._starts])


class _MergeStarts(beam.CombineFn):
    """Merges `StartHistogram`s."""

    def create_accumulator(self) -> StartHistogram:
        return StartHistogram()

    def add_input(self, accumulator: StartHistogram, histogram: StartHistogram) -> StartHistogram:
        accumulator.merge(histogram)
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[StartHistogram]) -> StartHistogram:
        merged = StartHistogram()
        for accumulator in accumulators:
            merged.merge(accumulator)
        return merged

    def extract_output(self, accumulator: StartHistogram) -> StartHistogram:
        return accumulator


class _SplitSessions(beam.DoFn):
    """Packed session → ((split, shard), packed examples), with counts, ranges of starts, and counts per item."""

    def __init__(self, data: DataConfig, seed: int):
        self._data = data
        self._seed = seed

    def start_bundle(self) -> None:
        self._counts: collections.Counter[tuple[str, str]] = collections.Counter()
        self._ranges: dict[tuple[str, str], tuple[int, int]] = {}
        self._items: dict[str, list[int]] = {}
        self._records: dict[tuple[str, int], list[bytes]] = {}
        self._n_records = 0

    def process(self, packed: bytes, cuts_s: tuple[int, int]) -> Iterator[Any]:
        session = packing.unpack_session(packed)
        start_s = session.timestamp_s[0]
        split = assign_split(session.session_id, start_s, self._data.split, self._seed, cuts_s)
        self._counts["sessions", split] += 1
        self._counts["events", split] += len(session.item_id)
        self._counts["false_positives", split] += sum(session.is_false_positive)
        if session.unclicked:
            is_covered = bytearray(len(session.item_id))
            for _, first, end in session.unclicked:
                is_covered[first:end] = b"\1" * (end - first)
            self._counts["events_with_unclicked", split] += sum(is_covered)
        bounds = self._ranges.get(("start", split), (start_s, start_s))
        self._ranges["start", split] = _widen([bounds, (start_s, start_s)])
        if split == schema.TRAIN:
            self._count_items(collections.Counter(session.item_id), _IN_TRAIN)
        targets = count_targets(session)
        self._count_items(targets, _TARGET_IN[split])
        if len(self._items) >= _BATCH_ITEMS:
            yield from (beam.pvalue.TaggedOutput(_ITEMS, (item, tuple(n))) for item, n in self._items.items())
            self._items = {}
        shard = zlib.crc32(session.session_id.encode()) % self._data.shards
        record = examples.encode_session(
            session,
            self._data.columns.feedback,
            has_history=self._data.history is not None,
            has_unclicked=self._data.unclicked is not None,
        )
        self._records.setdefault((split, shard), []).append(record)
        self._n_records += 1
        if self._n_records >= _BATCH_RECORDS:
            yield from self._take_records()

    def _take_records(self) -> Iterator[tuple[tuple[str, int], bytes]]:
        for shard, records in self._records.items():
            yield shard, packing.pack_records(records)
        self._records, self._n_records = {}, 0

    def _count_items(self, counts: Mapping[str, int], column: int) -> None:
        for item, count in counts.items():
            self._items.setdefault(item, [0] * _ITEM_COLUMNS)[column] += count

    def finish_bundle(self) -> Iterator[Any]:
        yield from map(GlobalWindows.windowed_value, self._take_records())
        yield from _tagged(_COUNTS, self._counts.items())
        yield from _tagged(_RANGES, self._ranges.items())
        yield from _tagged(_ITEMS, ((item, tuple(n)) for item, n in self._items.items()))


class _JudgeItems(beam.DoFn):
    """(item, its counts) → the counts of the catalogue and of the targets that are, or aren't, in it."""

    def __init__(self, min_support: int):
        self._min_support = min_support

    def start_bundle(self) -> None:
        self._counts: collections.Counter[tuple[str, str]] = collections.Counter()

    def process(self, element: tuple[str, tuple[int, ...]]) -> None:
        _, counts = element
        is_known = counts[_IN_TRAIN] >= self._min_support
        self._counts["catalogue_items", ""] += is_known
        for split, column in _TARGET_IN.items():
            self._counts["targets", split] += counts[column]
            self._counts["unseen_targets", split] += 0 if is_known else counts[column]

    def finish_bundle(self) -> Iterator[Any]:
        yield from map(GlobalWindows.windowed_value, self._counts.items())


class _WriteShard(beam.DoFn):
    """((split, shard), packed examples) → a file, and the fact of it."""

    def __init__(self, work_dir: str, n_shards: int):
        self._work_dir = work_dir
        self._n_shards = n_shards

    def process(self, element: tuple[tuple[str, int], Iterable[bytes]]) -> Iterator[tuple[str, Any, Any]]:
        (split, shard), batches = element
        records = packing.unpack_records(batches)
        entry = examples.write_shard(self._work_dir, split, shard, self._n_shards, records)
        yield "shard", entry.path, entry.model_dump()


def _tagged(tag: str, values: Iterable[Any]) -> Iterator[beam.pvalue.TaggedOutput]:
    """Outputs of a bundle's end."""
    return (beam.pvalue.TaggedOutput(tag, GlobalWindows.windowed_value(value)) for value in values)


def _key_by_user(packed: bytes) -> tuple[tuple[str, str], bytes]:
    """A session without a user is alone: nobody knows whose past it has."""
    session = packing.unpack_session(packed)
    return (session.user_id, "" if session.user_id else session.session_id), packed


def _add_histories(element: tuple[tuple[str, str], Iterable[bytes]], history: HistoryConfig) -> Iterator[bytes]:
    _, sessions = element
    return map(packing.pack_session, add_histories(map(packing.unpack_session, sessions), history))


def _add_unclicked(
    element: tuple[tuple[str, str], Mapping[str, Iterable[bytes]]], unclicked: UnclickedConfig
) -> Iterator[bytes]:
    _, found = element
    sessions = [packing.unpack_session(packed) for packed in found["sessions"]]
    own = (seen for session in sessions if session.user_id for seen in own_clicks(session, unclicked))
    seen = itertools.chain(packing.unpack_rows(found["seen"]), own)
    return map(packing.pack_session, add_unclicked(sessions, seen, unclicked))


def _find_cuts(starts: StartHistogram, data: DataConfig) -> tuple[int, int]:
    return starts.find_cuts(data.split)


def _add_elementwise(rows: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*rows)))


def _widen(ranges: Iterable[tuple[Any, Any]]) -> tuple[Any, Any]:
    lows, highs = zip(*ranges)
    return min(lows), max(highs)


def _name_fact(fact: tuple[tuple[str, str], Any], kind: str) -> tuple[str, Any, Any]:
    return kind, *fact


def _write_facts(facts: list[Any], path: str) -> None:
    storage.write_text(path, json.dumps(facts))
