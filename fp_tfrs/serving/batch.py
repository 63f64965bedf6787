"""Files of sessions → files of recommendations: plans the parts, has Beam answer them, and finishes the folder.

In: an export, and sessions of raw ids (`session_files.py`). Out: `<folder>/sessions-*.parquet` or `.jsonl`, one row a
session in the input's order, `_dead_letters.jsonl` for rows that cannot be used, and `_MANIFEST.json` last. Shards are made
in a work folder and moved at the end. A command that was killed goes on from them if model, input and options are the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice

import apache_beam as beam
import pydantic

import fp_tfrs
from fp_tfrs import storage
from fp_tfrs.config import fingerprint
from fp_tfrs.data.events import BadRow
from fp_tfrs.errors import InputError, RunError
from fp_tfrs.progress import Progress, say
from fp_tfrs.serving import batch_steps, push
from fp_tfrs.serving.session_files import Part, divide, find_files, parse, read_part

MANIFEST = "_MANIFEST.json"
DEAD_LETTERS = "_dead_letters.jsonl"  # as of the manifest: readers of a folder of Parquet pass over such names
WORK_FOLDER = ".unfinished"
FORMATS = ("parquet", "jsonl")
_PLAN = "plan.txt"
_LOCK = ".lock"  # stays: whoever waits for a lock that is removed would get it beside the next one's
_SHARD_NAME = r"^sessions-\d+-\d+\.(parquet|jsonl)$"
_SAMPLE_ROWS = 1_000


class _Record(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Shard(_Record):
    """One file of answers."""

    path: str = pydantic.Field(pattern=_SHARD_NAME)  # in the folder, never out of it
    sessions: int
    bad_rows: dict[str, int]  # by reason
    most_items: int  # that a session got
    model_version: str | None  # None: it has no session
    n_bytes: int
    sha256: str


class Manifest(_Record):
    """What became of every row: rows = sessions + bad rows."""

    fingerprint: str
    model: str
    model_version: str | None
    rows: int
    sessions: int
    bad_rows: dict[str, int]  # by reason, most frequent first
    shards: tuple[Shard, ...] = pydantic.Field(min_length=1)

    @property
    def n_bad_rows(self) -> int:
        return sum(self.bad_rows.values())


def recommend_all(
    model_dir: str,
    patterns: Sequence[str],
    output_dir: str,
    k: int,
    file_format: str,
    make_pipeline: Callable[[], beam.Pipeline],
    *,
    is_in_process: bool,
) -> Manifest:
    """Answers every session of the files.

    Args:
      model_dir: of an export.
      patterns: files, globs or folders.
      output_dir: what an earlier command has written there is replaced; other files are left alone.
      k: items for each session.
      file_format: one of FORMATS.
      make_pipeline: workers of other processes need `output_dir` on a disk that they share, or in an object store.
      is_in_process: the pipeline's workers are threads of this process, and their progress is shown.

    Raises:
      InputError: the input cannot be used or has changed meanwhile, or the output cannot be written.
      RunError: the pipeline failed.
    """
    work_dir = os.path.join(output_dir, WORK_FOLDER)
    files = find_files(patterns)
    _check_apart(patterns, files, output_dir)
    parts = divide(files, batch_steps.SHARD_ROWS)
    _check_first_rows(parts)
    plan = _fingerprint(model_dir, files, k, file_format)
    _read_finished(output_dir)  # what another program has finished is refused before anything is written
    with _exclusive(output_dir):
        finished = _read_finished(output_dir)
        if finished is not None and finished.fingerprint == plan and _has_answers(output_dir, finished):
            say(f"{output_dir} has these answers already")
        else:
            _prepare(output_dir, work_dir, plan)
            _answer(model_dir, work_dir, parts, k, file_format, make_pipeline, is_in_process=is_in_process)
            if not _is_unchanged(plan, model_dir, files, k, file_format):
                raise InputError(
                    f"the model or a file of --input has changed since --output {output_dir} was begun; repeat when nobody writes them"
                )
            finished = _finish(model_dir, output_dir, work_dir, plan)
        storage.remove_tree(work_dir)
        return finished


def _answer(
    model_dir: str,
    work_dir: str,
    parts: Sequence[Part],
    k: int,
    file_format: str,
    make_pipeline: Callable[[], beam.Pipeline],
    *,
    is_in_process: bool,
) -> None:
    """Has Beam answer the parts that are left; raises as `recommend_all`."""
    left = _left(work_dir, parts)
    refusal = os.path.join(work_dir, batch_steps.REFUSAL)  # of an earlier command; the file may be whole now
    if storage.exists(refusal):
        storage.remove(refusal)
    counts = [part.n_rows for part in parts]
    total = sum(filter(None, counts)) if is_in_process and None not in counts else None
    with Progress(total, "recommending", "sessions") if is_in_process else contextlib.nullcontext() as progress:
        if progress is not None:
            progress.advance(sum(part.n_rows or 0 for part in parts) - sum(part.n_rows or 0 for part in left))
            batch_steps.rows_done = progress.advance
        try:
            with make_pipeline() as pipeline:
                _ = (
                    pipeline
                    | "Parts" >> beam.Create(list(map(tuple, left)))
                    | "SpreadParts" >> beam.Reshuffle()
                    | "Recommend" >> beam.ParDo(batch_steps.Recommend(model_dir, work_dir, k, file_format))
                )
        except Exception as error:
            reason = str(error).strip().split("\n")[-1]
            raise RunError(f"the pipeline failed: {reason}; the same command goes on") from error
        finally:
            batch_steps.rows_done = None
    if storage.exists(refusal):
        raise InputError(storage.read_text(refusal))
    if lost := _left(work_dir, parts):
        first = f"{lost[0].path} from row {lost[0].first_row} on"
        raise RunError(
            f"the pipeline left out {len(lost)} of {len(parts)} parts, such as {first}; the same command goes on"
        )


def _check_apart(patterns: Sequence[str], files: Sequence[str], output_dir: str) -> None:
    """Answers must be no input of the next command, nor input be removed as the answers of an earlier one."""
    output = _real(output_dir)
    folders = (pattern for pattern in patterns if f"{output}/".startswith(f"{_real(pattern)}/"))
    within = (path for path in files if _real(path).startswith(f"{output}/"))
    if (found := next(chain(folders, within), None)) is not None:
        raise InputError(f"--input {found} and --output {output_dir} lie in one another; give folders apart")


def _real(path: str) -> str:
    return os.path.realpath(path) if storage.is_local(path) else path.rstrip("/")


def _check_first_rows(parts: Sequence[Part]) -> None:
    """Refuses files of which no row fits, before the real work."""
    rows = list(islice(((part.path, row) for part in parts for row in read_part(part)), _SAMPLE_ROWS))
    reasons = [found.reason for _, row in rows if isinstance(found := parse(row), BadRow)]
    if len(reasons) == len(rows):
        if not rows:
            raise InputError("--input: no rows; give files with sessions")
        top, count = Counter(reasons).most_common(1)[0]
        path = rows[reasons.index(top)][0]
        raise InputError(
            f"--input {path}: none of the first {len(rows)} rows can be used; most often ({count}): {top}; columns are session_id, "
            "item_id and, if any, is_false_positive, user_id, history_item_id, unclicked_item_id"
        )


def _fingerprint(model_dir: str, files: Sequence[str], k: int, file_format: str) -> str:
    """Changes with the model, a file of the input, or an option."""
    model = (f"{name} {digest}" for name, digest in push.digests(model_dir).items())
    inputs = (f"{path} {storage.size(path)} {storage.modified_ns(path)}" for path in files)
    return fingerprint(fp_tfrs.__version__, *model, *inputs, f"{k} {file_format} {batch_steps.SHARD_ROWS}")


def _is_unchanged(plan: str, model_dir: str, files: Sequence[str], k: int, file_format: str) -> bool:
    try:
        return _fingerprint(model_dir, files, k, file_format) == plan
    except OSError:  # one of them is gone
        return False


def _read_finished(output_dir: str) -> Manifest | None:
    path = os.path.join(output_dir, MANIFEST)
    try:
        return Manifest.model_validate_json(storage.read_text(path)) if storage.exists(path) else None
    except ValueError:
        raise InputError(f"{path} is none of fp-tfrs batch-recommend; give another --output") from None


def _has_answers(output_dir: str, manifest: Manifest) -> bool:
    """Are the files that the manifest names there, and as long as they were?"""
    sizes = {os.path.join(output_dir, shard.path): shard.n_bytes for shard in manifest.shards}
    has_letters = not manifest.bad_rows or storage.exists(os.path.join(output_dir, DEAD_LETTERS))
    return has_letters and all(storage.exists(path) and storage.size(path) == n for path, n in sizes.items())


@contextlib.contextmanager
def _exclusive(output_dir: str) -> Iterator[None]:
    """Makes the folder, and holds its lock where there are locks."""
    with contextlib.ExitStack() as stack:
        try:
            storage.make_folder(output_dir)
            if storage.is_local(output_dir):
                lock = stack.enter_context(open(os.path.join(output_dir, _LOCK), "a"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            storage.make_folder(os.path.join(output_dir, WORK_FOLDER))  # whoever had the lock may have removed it
        except BlockingIOError:
            raise InputError(
                f"another command is writing to --output {output_dir}; wait for it, or name another"
            ) from None
        except OSError as error:
            raise InputError(
                f"--output {output_dir} cannot be written: {error.strerror}; give another folder"
            ) from error
        yield


def _prepare(output_dir: str, work_dir: str, plan: str) -> None:
    """Keeps what a killed command with the same plan has done; else clears the folder of answers, and of nothing else.

    What says that it is finished goes first. Raises InputError where the folder has dead letters of another program.
    """
    plan_path, manifest_path, letters_path = (
        os.path.join(*path) for path in ((work_dir, _PLAN), (output_dir, MANIFEST), (output_dir, DEAD_LETTERS))
    )
    for path in (plan_path, manifest_path, letters_path):
        storage.remove_attempts(path)
    finished, is_begun = _read_finished(output_dir), storage.exists(plan_path)
    if is_begun and finished is None and storage.read_text(plan_path) == plan:
        say("going on from what an earlier command has done")
        return
    if storage.exists(letters_path) and not is_begun and (finished is None or not finished.bad_rows):
        raise InputError(f"{letters_path} is none of fp-tfrs batch-recommend; give another --output, or move it away")
    # Nobody's plan: killed from here on, the next command knows that the folder is ours to be cleared.
    storage.write_text(plan_path, "")
    for path in (manifest_path, letters_path):
        if storage.exists(path):
            storage.remove(path)
    for name in storage.list_folder(output_dir):
        if re.fullmatch(_SHARD_NAME, name):
            storage.remove(os.path.join(output_dir, name))
    for name in storage.list_folder(work_dir):
        if name != _PLAN:
            storage.remove(os.path.join(work_dir, name))
    storage.write_text(plan_path, plan)


def _left(work_dir: str, parts: Sequence[Part]) -> list[Part]:
    """The parts that are still to be answered; of one that was begun the worker sees which shards there are."""
    return [part for part in parts if not storage.exists(batch_steps.done_path(work_dir, part))]


def _finish(model_dir: str, output_dir: str, work_dir: str, plan: str) -> Manifest:
    """Moves the shards, joins the dead letters, writes the manifest; killed half-way it can be done again."""
    suffix = batch_steps.facts_path("", "")
    names = [name.removesuffix(suffix) for name in storage.list_folder(work_dir) if name.endswith(suffix)]
    shards = tuple(
        Shard.model_validate_json(storage.read_text(batch_steps.facts_path(work_dir, name))) for name in names
    )
    bad: Counter[str] = Counter()
    for shard in shards:
        bad.update(shard.bad_rows)
    manifest = Manifest(
        fingerprint=plan,
        model=model_dir,
        model_version=next((shard.model_version for shard in shards if shard.model_version), None),
        rows=sum(shard.sessions for shard in shards) + bad.total(),
        sessions=sum(shard.sessions for shard in shards),
        bad_rows=dict(bad.most_common()),
        shards=shards,
    )
    for shard in shards:
        if storage.exists(os.path.join(work_dir, shard.path)):
            storage.move(os.path.join(work_dir, shard.path), os.path.join(output_dir, shard.path))
    if bad:
        with storage.replacing(os.path.join(output_dir, DEAD_LETTERS)) as joined:
            for name in names:
                with storage.open_to_read(batch_steps.letters_path(work_dir, name)) as letters:
                    joined.writelines(letters)
    storage.write_text(os.path.join(output_dir, MANIFEST), manifest.model_dump_json(indent=1) + "\n")
    return manifest


def format_summary(manifest: Manifest, output_dir: str, k: int) -> list[str]:
    """The lines that the command prints of k items for each session."""
    version = manifest.model_version or "no session"
    lines = [f"{output_dir}: {manifest.sessions:,} sessions answered by {manifest.model} ({version})"]
    if manifest.bad_rows:
        reason, count = next(iter(manifest.bad_rows.items()))
        path = os.path.join(output_dir, DEAD_LETTERS)
        lines.append(f"{path}: {manifest.n_bad_rows:,} rows that cannot be used, most often: {reason} ({count:,})")
    most_items = max(shard.most_items for shard in manifest.shards)
    if most_items < k:
        lines.append(f"no session got more than {most_items} items")
    return lines
