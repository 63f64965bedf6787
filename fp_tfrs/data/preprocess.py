"""Event log → finished folder of raw examples: runs the Beam steps, checks what came out, writes the manifest last.

In: a `DataConfig`. Out: `<folder>/Split-*/sessions-*.gz`, `_MANIFEST.json` and the dead letters. Everything is made in
a work folder inside the output folder and moved into place at the end, so that a run that fails or is killed
leaves nothing that looks finished.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import apache_beam as beam

from fp_tfrs import schema, storage
from fp_tfrs.config import DataConfig, RuleConfig, parse_since
from fp_tfrs.data import examples, manifest, preprocess_steps
from fp_tfrs.data.events import BadRow, EventParser, describe_rule
from fp_tfrs.data.manifest import Manifest
from fp_tfrs.data.sources import RawRow, check_source, count_rows, mapped_columns, read_rows, split_items
from fp_tfrs.datasets import prepared
from fp_tfrs.errors import InputError, RunError
from fp_tfrs.progress import Progress, say

WORK_FOLDER = ".unfinished"
FUTURE_TOLERANCE_S = 86_400.0  # a clock in another time zone is forgiven; events later than that are bad rows
_YEAR_S = 31_536_000
_SAMPLE_ROWS = 100_000  # at most, of all files


def preprocess(
    data: DataConfig,
    seed: int,
    output_dir: str,
    dead_letter_path: str,
    latest_timestamp_s: float,
    make_pipeline: Callable[[], beam.Pipeline] | None = None,
    fingerprint: str = "",
    *,
    is_in_process: bool = True,
) -> Manifest:
    """Turns an event log into raw examples.

    Args:
      data: where the log is and how to read and divide it.
      seed: of a random split.
      output_dir: what is in it of an earlier run is replaced.
      dead_letter_path: a JSONL file of all bad rows (source, line, reason, text); written even if the checks fail.
      latest_timestamp_s: later events are bad rows; give the start of the run plus a day.
      make_pipeline: default: Beam's in-memory runner. Other runners need `output_dir` on a disk that they share, or in an
        object store.
      fingerprint: is written to the manifest.
      is_in_process: the pipeline's workers are threads of this process. Their progress is shown, and for that the rows
        are counted first; where others do the work, this process does not read the log.

    Returns:
      The manifest that was written to `output_dir`.

    Raises:
      InputError: the log, or what is configured for it, can't be used.
      RunError: the pipeline failed, or its counts don't add up.
    """
    files = check_source(data)
    made_of = _made_of(files, data)
    _check_first_rows(files, data, latest_timestamp_s)
    n_rows = sum(count_rows(path, data.source) for path in files) if is_in_process else None
    work_dir = os.path.join(output_dir, WORK_FOLDER)
    try:
        _clear(output_dir)
        storage.remove_attempts(dead_letter_path)
        storage.make_folder(work_dir)
        storage.make_folder(storage.parent(dead_letter_path))
    except OSError as error:
        raise InputError(f"{output_dir} can't be written ({error.strerror}); give another folder") from error
    try:
        facts = _run(files, n_rows, data, seed, work_dir, latest_timestamp_s, make_pipeline or _make_local_pipeline)
        if _made_of(files, data) != made_of:
            raise InputError(
                f"{os.path.dirname(files[0])} was made anew, of other files, while it was read; give each "
                "data.source.manual_dir a data_dir of its own, and run it again"
            )
        first_letters = _join_dead_letters(work_dir, dead_letter_path)
        _check_rows(facts, data, first_letters, dead_letter_path)
        _warn_of_unit(facts, data)
        _check_splits(facts, data)
        shards = [*facts["shard"].values(), *_write_missing_shards(facts, work_dir, data.shards)]
        result = _build_manifest(facts, shards, fingerprint, data.unclicked is not None)
        manifest.check_conservation(result)
        for split in schema.SPLITS:
            storage.make_folder(os.path.join(output_dir, f"Split-{split}"))
        for shard in result.shards:
            storage.move(os.path.join(work_dir, shard.path), os.path.join(output_dir, shard.path))
        manifest.write(result, output_dir)
    finally:
        storage.remove_tree(work_dir)
    return result


def _make_local_pipeline() -> beam.Pipeline:
    return beam.Pipeline(runner="FnApiRunner")  # what DirectRunner ends up as, without looking for another one first


def _clear(output_dir: str) -> None:
    """Removes what an earlier run left: the manifest first, so that the rest never looks finished."""
    path = os.path.join(output_dir, manifest.FILE_NAME)
    if storage.exists(path):
        storage.remove(path)
    storage.remove_attempts(path)
    for name in (WORK_FOLDER, *(f"Split-{split}" for split in schema.SPLITS)):
        storage.remove_tree(os.path.join(output_dir, name))


def _made_of(files: Sequence[str], data: DataConfig) -> str:
    """What a data set by name says that it was made of; "" for other logs."""
    return prepared.made_of(files[0]) if data.source.format == "tfds" and files else ""


def _check_first_rows(files: Sequence[str], data: DataConfig, latest_timestamp_s: float) -> None:
    """Refuses a configuration that fits no row, before the real work: it reads until one can be read, or for a second.

    Old rows can be: where `data.since` counts from the log's end, nobody knows yet which rows are too old.
    """
    since_s = parse_since(data.since).resolve(latest_timestamp_s) if data.since else 0.0
    parser = EventParser(data, latest_timestamp_s, since_s)
    reasons: Counter[str] = Counter()
    first: dict[str, tuple[str, RawRow]] = {}
    for path in files:
        n_rows = max(1, _SAMPLE_ROWS // len(files))
        rows = islice(read_rows(path, data.source, mapped_columns(data.columns)), n_rows)
        for item in (item for row in rows for item in split_items(row, data.columns)):
            result = parser.parse(item)
            if isinstance(result, BadRow):
                reasons[result.reason] += 1
                first.setdefault(result.reason, (path, item))
            else:
                return
    if reasons:
        top = reasons.most_common(1)[0][0]
        path, row = first[top]
        raise InputError(
            f"{path}: none of the first {reasons.total()} rows can be used; most often: {top}, e.g. line {row.line}: "
            f"{(row.text or str(row.values))[:100]!r}; check data.columns and data.time_unit"
        )


def _run(
    files: list[str],
    n_rows: int | None,
    data: DataConfig,
    seed: int,
    work_dir: str,
    latest_timestamp_s: float,
    make_pipeline: Callable[[], beam.Pipeline],
) -> dict[str, dict[Any, Any]]:
    """Runs the pipeline; returns its facts by kind: `counts` and `ranges` by (name, detail), `shard` by path."""
    with contextlib.nullcontext() if n_rows is None else Progress(n_rows, "reading events", "rows") as progress:
        preprocess_steps.rows_read = None if progress is None else progress.advance
        try:
            with make_pipeline() as pipeline:
                _ = pipeline | preprocess_steps.WriteSessions(files, data, seed, work_dir, latest_timestamp_s)
        except Exception as error:
            reason = str(error).strip().split("\n")[-1]
            raise RunError(f"the preprocessing pipeline failed: {reason}") from error
        finally:
            preprocess_steps.rows_read = None
    facts: dict[str, dict[Any, Any]] = {"counts": {}, "ranges": {}, "shard": {}}
    for kind, key, value in json.loads(storage.read_text(os.path.join(work_dir, preprocess_steps.FACTS_FILE))):
        facts[kind][tuple(key) if isinstance(key, list) else key] = value
    return facts


def _join_dead_letters(work_dir: str, dead_letter_path: str) -> dict[str, dict[str, Any]]:
    """Joins the files' dead letters into one, by rename; returns the first one of each reason."""
    first: dict[str, dict[str, Any]] = {}
    with storage.replacing(dead_letter_path) as joined:
        for path in preprocess_steps.dead_letter_files(work_dir):
            with storage.open_to_read(path) as file:
                for line in file:
                    letter = json.loads(line)
                    first.setdefault(letter["reason"], letter)
                    joined.write(line)
    return first


def _check_rows(
    facts: Mapping[str, Mapping[Any, Any]],
    data: DataConfig,
    first_letters: Mapping[str, Mapping[str, Any]],
    dead_letter_path: str,
) -> None:
    counts = facts["counts"]
    for failed in (detail for name, detail in counts if name == "failed file"):
        raise InputError(failed)
    rows, older, bad = counts["rows", ""], counts["older", ""], _details(counts, "bad")
    if rows and older == rows:
        time = manifest.format_time(facts["ranges"]["since", ""][0])
        raise InputError(f"all {rows} rows are of before data.since = {data.since} ({time}); is the log late?")
    rows -= older
    n_bad = sum(bad.values())
    if n_bad > data.max_bad_share * rows:
        top = max(bad, key=lambda reason: (bad[reason], reason))
        letter = first_letters[top]
        raise InputError(
            f"{n_bad} of {rows} rows ({n_bad / rows:.1%}) are bad, more than data.max_bad_share = "
            f"{data.max_bad_share:.1%}; most often ({bad[top]}): {top}, e.g. {letter['source']} line {letter['line']}: "
            f"{letter['text'][:100]!r}; all are in {dead_letter_path}"
        )
    ranges = _details(facts["ranges"], "feedback")
    seen = ", ".join(f"{column} {low} … {high}" for column, (low, high) in sorted(ranges.items())) or "none"
    clicks = counts["clicks", ""]
    if not clicks:
        listed = [f"listed in {data.columns.clicked_item_ids}"] if data.columns.clicked_item_ids else []
        rules = " and ".join([*listed, *map(describe_rule, data.click_when)]) or "no rule"
        raise InputError(f"none of {rows} rows is a click (data.click_when: {rules}); feedback in the data: {seen}")
    keys, shared = counts["keys", ""], counts["shared_keys", ""]
    if shared > data.max_bad_share * keys:
        raise InputError(
            f"{shared} of {keys} session ids ({shared / keys:.1%}) have clicks of several users, more than data.max_bad_share = "
            f"{data.max_bad_share:.1%}; name a column that is unique over all users in data.columns.session_id, or leave it out"
        )
    tied = counts["tied_events", ""]
    if data.sessions.same_time == "item_id" and tied > data.max_bad_share * clicks:
        raise InputError(
            f"{tied} of {clicks} clicks ({tied / clicks:.1%}) have the time of the one before in their session, more than "
            f"data.max_bad_share = {data.max_bad_share:.1%}; in the order of their ids a model would learn that the next one is larger: "
            "set data.sessions.same_time: hash"
        )
    for number, rule in enumerate(data.false_positive_when):
        _check_rule(rule, counts.get(("rule", str(number)), 0), clicks, seen)


def _check_rule(rule: RuleConfig, hits: int, clicks: int, seen: str) -> None:
    if hits in (0, clicks):
        raise InputError(
            f"the rule {describe_rule(rule)} of data.false_positive_when holds for {'none' if not hits else 'all'} of "
            f"{clicks} clicks, so it tells nothing apart; change or remove it; feedback in the data: {seen}"
        )


def _warn_of_unit(facts: Mapping[str, Mapping[Any, Any]], data: DataConfig) -> None:
    """Seconds that are read as milliseconds are all of January 1970; milliseconds that are read as seconds are in the future."""
    newest_s = max((high for _, high in _details(facts["ranges"], "start").values()), default=math.inf)
    if data.time_unit == "ms" and newest_s < _YEAR_S:
        say(
            f"warning: the newest session begins {manifest.format_time(newest_s)}; if the log's times are seconds, data.time_unit = "
            "ms is wrong, and with it all that counts seconds or days"
        )


def _check_splits(facts: Mapping[str, Mapping[Any, Any]], data: DataConfig) -> None:
    sessions = {split: facts["counts"].get(("sessions", split), 0) for split in schema.SPLITS}
    if not all(sessions.values()):
        found = ", ".join(f"{split} {count}" for split, count in sessions.items())
        raise InputError(
            f"{sum(sessions.values())} sessions of at least data.sessions.min_length = {data.sessions.min_length} "
            f"clicks leave a split empty ({found}); each needs one: give more events"
            f"{', or an earlier data.since' if data.since else ''}, or change data.split"
        )
    if data.unclicked is not None and not _details(facts["counts"], "events_with_unclicked"):
        raise InputError(
            f"no click has an unclicked item before it: nothing that was shown (data.unclicked, of "
            f"{facts['counts']['impressions', '']} impressions) counts; change its shown_when, window_days or "
            "min_impressions, or remove data.unclicked"
        )


def _write_missing_shards(facts: Mapping[str, Mapping[Any, Any]], work_dir: str, n_shards: int) -> list[dict[str, Any]]:
    """Small splits may leave a shard without sessions: it is written empty, so that file names keep their word."""
    return [
        examples.write_shard(work_dir, split, shard, n_shards, ()).model_dump()
        for split in schema.SPLITS
        for shard in range(n_shards)
        if examples.shard_path(split, shard, n_shards) not in facts["shard"]
    ]


def _build_manifest(
    facts: Mapping[str, Mapping[Any, Any]], shards: list[dict[str, Any]], fingerprint: str, has_unclicked: bool
) -> Manifest:
    counts = facts["counts"]
    bad = _details(counts, "bad")
    get = functools.partial(_get, counts)
    return Manifest(
        fingerprint=fingerprint,
        rows=get("rows"),
        older_rows=get("older"),
        since_s=facts["ranges"]["since", ""][0] or None,
        bad_rows=dict(sorted(bad.items(), key=lambda entry: (-entry[1], entry[0]))),
        impressions=get("impressions"),
        clicks=get("clicks"),
        duplicate_events=get("duplicate_events"),
        short_sessions=get("short_sessions"),
        short_events=get("short_events"),
        cut_events=get("cut_events"),
        shared_session_ids=get("shared_keys"),
        catalogue_items=get("catalogue_items"),
        feedback_ranges=dict(sorted(_details(facts["ranges"], "feedback").items())),
        splits={
            split: manifest.SplitCounts(
                sessions=get("sessions", split),
                events=get("events", split),
                false_positives=get("false_positives", split),
                first_start_s=facts["ranges"]["start", split][0],
                last_start_s=facts["ranges"]["start", split][1],
                targets=get("targets", split),
                unseen_targets=get("unseen_targets", split),
                events_with_unclicked=get("events_with_unclicked", split) if has_unclicked else None,
            )
            for split in schema.SPLITS
        },
        shards=tuple(sorted((manifest.Shard(**shard) for shard in shards), key=lambda shard: shard.path)),
    )


def _get(counts: Mapping[Any, int], name: str, detail: str = "") -> int:
    return counts.get((name, detail), 0)


def _details(facts: Mapping[Any, Any], name: str) -> dict[str, Any]:
    """The facts of one name by their detail."""
    return {detail: value for (kind, detail), value in facts.items() if kind == name}
