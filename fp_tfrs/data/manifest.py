"""The manifest of a folder of raw examples: its counts and its files, written last, so that it marks the folder as finished.

In: the counts of a preprocessing run. Out: `_MANIFEST.json`, without which no reader takes the folder for finished.
"""

from __future__ import annotations

import datetime
import os
from typing import Annotated

import pydantic
from pydantic import Field

from fp_tfrs import schema, storage
from fp_tfrs.errors import InputError, RunError

FILE_NAME = "_MANIFEST.json"


Count = Annotated[int, Field(ge=0, lt=2**63)]
Time = Annotated[float, Field(ge=0, lt=253_402_300_800)]  # Unix time, up to the year 9999
Second = Annotated[int, Field(ge=0, lt=253_402_300_800)]


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)


class Shard(_Record):
    """One TFRecord file."""

    split: str
    path: str = Field(pattern=r"^Split-[a-z]+/sessions-\d+-of-\d+\.gz$")  # relative to the folder, and never out of it
    records: Count
    n_bytes: Count
    sha256: str


class SplitCounts(_Record):
    """One split. Targets are the true positives after the first one of their session."""

    sessions: Count
    events: int = Field(gt=0)
    false_positives: Count
    first_start_s: Second
    last_start_s: Second
    targets: Count
    unseen_targets: Count  # whose item is not in the catalogue, so that no model can predict it
    events_with_unclicked: Count | None = None  # before which something was shown and not clicked; None = not counted

    @property
    def false_positive_share(self) -> float:
        return self.false_positives / self.events

    @property
    def unseen_target_share(self) -> float:
        return self.unseen_targets / self.targets if self.targets else 0.0


class Manifest(_Record):
    """What became of every row: rows = older + bad + impressions + duplicate, short and cut events + events of the splits."""

    fingerprint: str
    rows: Count
    older_rows: Count = 0  # than since_s
    since_s: Time | None = None  # `data.since` as Unix time; None = everything was read
    bad_rows: dict[str, Count]  # by reason, most frequent first
    impressions: Count
    clicks: Count
    duplicate_events: Count
    short_sessions: Count
    short_events: Count
    cut_events: Count
    shared_session_ids: Count = 0  # that several users have: each is taken for one session, of the first user it names
    catalogue_items: Count  # items with data.min_item_support clicks in train
    feedback_ranges: dict[str, tuple[float | str, float | str]]
    splits: dict[str, SplitCounts]
    shards: tuple[Shard, ...]

    @pydantic.model_validator(mode="after")
    def _check(self) -> Manifest:
        if set(self.splits) != set(schema.SPLITS):
            raise ValueError(f"splits are {', '.join(self.splits)}, not {', '.join(schema.SPLITS)}")
        return self

    @property
    def n_bad_rows(self) -> int:
        return sum(self.bad_rows.values())


def check_conservation(manifest: Manifest) -> None:
    """Raises RunError unless every row is accounted for, and every session is in a file."""
    written = sum(counts.events for counts in manifest.splits.values())
    left_out = manifest.duplicate_events + manifest.short_events + manifest.cut_events
    accounted = manifest.older_rows + manifest.n_bad_rows + manifest.impressions + left_out + written
    if accounted != manifest.rows:
        raise RunError(
            f"{manifest.rows} rows were read, but {accounted} are accounted for ({manifest.older_rows} older, "
            f"{manifest.n_bad_rows} bad, {manifest.impressions} impressions, {left_out} left out, {written} written); run it again"
        )
    for split, counts in manifest.splits.items():
        records = sum(shard.records for shard in manifest.shards if shard.split == split)
        if records != counts.sessions:
            raise RunError(f"{split} has {counts.sessions} sessions, but {records} were written; run it again")


def write(manifest: Manifest, output_dir: str) -> None:
    """Writes the manifest: it is there whole or not at all."""
    storage.write_text(os.path.join(output_dir, FILE_NAME), manifest.model_dump_json(indent=2) + "\n")


def read(output_dir: str) -> Manifest:
    """The folder's manifest.

    Raises:
      InputError: there is none, or not a readable one: the folder is not finished.
    """
    path = os.path.join(output_dir, FILE_NAME)
    try:
        return Manifest.model_validate_json(storage.read_text(path))
    except FileNotFoundError:
        raise InputError(f"{output_dir} is not finished: it has no {FILE_NAME}; run the preprocessing again") from None
    except ValueError as error:
        raise InputError(f"{path} is not a manifest of this version; run the preprocessing again") from error


def verify(output_dir: str) -> Manifest:
    """The folder's manifest, once every file that it lists is there with its size and SHA-256: before training on it.

    Raises:
      InputError: not finished, or a file is missing or was changed.
    """
    manifest = read(output_dir)
    for shard in manifest.shards:
        path = os.path.join(output_dir, shard.path)
        if not storage.exists(path):
            raise InputError(f"{path} is missing, though {FILE_NAME} lists it; run the preprocessing again")
        if storage.size(path) != shard.n_bytes or storage.hash_file(path) != shard.sha256:
            raise InputError(f"{path} is not the file that {FILE_NAME} lists; run the preprocessing again")
    return manifest


def format_summary(manifest: Manifest) -> list[str]:
    """The lines that a run prints about its data."""
    bad = f"{manifest.n_bad_rows:,} bad ({manifest.n_bad_rows / max(manifest.rows, 1):.2%})"
    if manifest.bad_rows:
        reason, count = next(iter(manifest.bad_rows.items()))
        bad += f", most often: {reason} ({count:,})"
    left_out = (
        f"{manifest.duplicate_events:,} duplicates, {manifest.short_events:,} clicks in {manifest.short_sessions:,} "
        f"sessions that are too short, {manifest.cut_events:,} cut from long sessions"
    )
    older = ""
    if manifest.since_s is not None:
        older = f"; {manifest.older_rows:,} before {format_time(manifest.since_s)} were not taken"
    shared = ""
    if manifest.shared_session_ids:
        shared = (
            f"; {manifest.shared_session_ids:,} session ids are of several users, and were taken for one session each"
        )
    lines = [
        f"rows        {manifest.rows:,}: {manifest.clicks:,} clicks, {manifest.impressions:,} impressions, {bad}{older}",
        f"left out    {left_out}{shared}",
        f"catalogue   {manifest.catalogue_items:,} items",
    ]
    for split in schema.SPLITS:
        counts = manifest.splits[split]
        line = (
            f"{split:<11} {counts.sessions:,} sessions, {counts.events:,} clicks, "
            f"{counts.false_positive_share:.1%} false positives, starts {format_time(counts.first_start_s)} … "
            f"{format_time(counts.last_start_s)}"
        )
        if counts.events_with_unclicked is not None:
            line += f"; clicks with unclicked items before them: {counts.events_with_unclicked / counts.events:.1%}"
        if split != schema.TRAIN:
            line += f"; targets unseen in training: {counts.unseen_target_share:.1%} of {counts.targets:,}"
        lines.append(line)
    return lines


def format_time(time_s: float) -> str:
    """Unix time as people write it, in UTC."""
    return datetime.datetime.fromtimestamp(time_s, datetime.timezone.utc).strftime("%Y-%m-%d %H:%M")
