"""The Beam step of `batch.py`: part of a file of sessions → finished shards of answers, under the work folder.

A shard is done when its facts are there, which are written last; one that is done is not made again. So nothing goes
through Beam but parts, and a pipeline that was killed leaves what it had done.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from apache_beam.utils import shared

from fp_tfrs import schema, storage
from fp_tfrs.data.events import MAX_DEAD_LETTER_CHARACTERS, BadRow
from fp_tfrs.errors import InputError
from fp_tfrs.serving.request import Request
from fp_tfrs.serving.saved_model import ROWS_PER_CALL, SavedModel
from fp_tfrs.serving.session_files import Asked, Part, parse, read_part

REFUSAL = "refused.txt"  # in the work folder: why a part cannot be answered, and so none has to be
SHARD_ROWS = 20_000  # a kill loses as many at most
SCORE, MODEL_VERSION = "score", "model_version"
_MOST_CELLS = 400_000  # of a call: rows × the longest row's items, since rows are padded to it

rows_done: Callable[[int], None] | None = None
"""Called with numbers of rows by workers in this process; `batch` sets it to show progress."""


class Answers(NamedTuple):
    """What n sessions are answered, best item first."""

    n_items: np.ndarray  # int64 [n]
    item_id: np.ndarray  # bytes [sum of n_items]
    score: np.ndarray  # float32 [sum of n_items]
    model_version: list[str]  # [n]


def answer(model: SavedModel, requests: Sequence[Request], k: int) -> Answers:
    """The k best items for each request, or as many as the model gives: sessions of similar length share a call."""
    order = sorted(range(len(requests)), key=lambda row: (requests[row].signature, _length(requests[row])))
    item_id = score = None
    versions = [""] * len(requests)
    for rows in _calls(requests, order):
        asked = [requests[row] for row in rows]
        outputs = model.call(asked[0].signature, **model.request_inputs(asked[0].signature, asked))
        found = outputs["item_id"][:, :k]
        if item_id is None or score is None:
            item_id = np.full((len(requests), found.shape[1]), b"", dtype=object)
            score = np.zeros(item_id.shape, np.float32)
        item_id[rows], score[rows] = found, outputs["score"][:, :k]
        for row, version in zip(rows, outputs["model_version"]):
            versions[row] = version.decode()
    if item_id is None or score is None:
        return Answers(np.zeros(0, np.int64), np.zeros(0, object), np.zeros(0, np.float32), [])
    is_item = item_id != b""  # lists and exclude_seen may leave fewer
    return Answers(is_item.sum(axis=1), item_id[is_item], score[is_item], versions)


def _length(request: Request) -> int:
    lists = (request.item_id, request.history_item_id, request.unclicked_item_id)
    return max(map(len, (*lists, request.allowed_item_id, request.denied_item_id)))


def _calls(requests: Sequence[Request], order: Sequence[int]) -> Iterator[list[int]]:
    """Rows in this order, cut where the signature changes or a call would grow too large."""
    rows: list[int] = []
    for row in order:
        is_full = len(rows) == ROWS_PER_CALL or (len(rows) + 1) * _length(requests[row]) > _MOST_CELLS
        if rows and (is_full or requests[row].signature != requests[rows[0]].signature):
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows


class Recommend(beam.DoFn):
    """`Part`s as tuples → nothing; shards, dead letters and facts in the work folder.

    Args:
      model_dir: of the export; each worker process loads it once.
      work_dir: a folder that all workers can write to.
      k: items for each session.
      file_format: parquet or jsonl.
    """

    def __init__(self, model_dir: str, work_dir: str, k: int, file_format: str):
        self._model_dir, self._work_dir, self._k, self._file_format = model_dir, work_dir, k, file_format
        self._shared = shared.Shared()

    def process(self, part: tuple[Any, ...]) -> None:
        """What cannot be used is left in REFUSAL for `batch` to raise: Beam would make a failure of it, with a traceback."""
        if storage.exists(refusal := os.path.join(self._work_dir, REFUSAL)):
            return
        try:
            self._model = self._shared.acquire(lambda: SavedModel(self._model_dir))
            self._answer(Part(*part))
        except InputError as error:
            storage.write_text(refusal, str(error))

    def _answer(self, part: Part) -> None:
        rows, first_row = read_part(part), part.first_row
        while chunk := list(itertools.islice(rows, SHARD_ROWS)):
            name = shard_name(part.file, first_row, self._file_format)
            if not storage.exists(facts_path(self._work_dir, name)):
                self._write(name, part.path, chunk)
            if rows_done:
                rows_done(len(chunk))
            first_row += len(chunk)
        storage.write_text(done_path(self._work_dir, part), "")

    def _write(self, name: str, source: str, chunk: Sequence[Any]) -> None:
        asked: list[Asked] = []
        bad: dict[str, int] = {}
        letters = []
        for row in chunk:
            found = parse(row)
            if isinstance(found, BadRow):
                bad[found.reason] = bad.get(found.reason, 0) + 1
                text = (row.text or str(row.values or ""))[:MAX_DEAD_LETTER_CHARACTERS]
                letters.append({"source": source, "line": row.line, "reason": found.reason, "text": text})
            else:
                asked.append(found)
        answers = answer(self._model, [one.request for one in asked], self._k)
        path = os.path.join(self._work_dir, name)
        write = _write_parquet if self._file_format == "parquet" else _write_lines
        with storage.replacing(path) as file:
            write(file, [one.session_id for one in asked], answers)
        storage.write_text(letters_path(self._work_dir, name), "".join(f"{json.dumps(letter)}\n" for letter in letters))
        facts = {
            "path": name,
            "sessions": len(asked),
            "bad_rows": bad,
            "most_items": int(max(answers.n_items, default=0)),
            "model_version": answers.model_version[0] if asked else None,
            "n_bytes": storage.size(path),
            "sha256": storage.hash_file(path),
        }
        storage.write_text(facts_path(self._work_dir, name), json.dumps(facts))


def shard_name(file: int, first_row: int, file_format: str) -> str:
    """Sorts as the files and their rows do."""
    return f"sessions-{file:05d}-{first_row:010d}.{file_format}"


def done_path(work_dir: str, part: Part) -> str:
    """What is there once all shards of the part are."""
    return os.path.join(work_dir, f"part-{part.file:05d}-{part.first_row:010d}.done")


def facts_path(work_dir: str, name: str) -> str:
    """Where the facts of a finished shard are."""
    return os.path.join(work_dir, f"{name}.facts.json")


def letters_path(work_dir: str, name: str) -> str:
    """Where its dead letters are."""
    return os.path.join(work_dir, f"{name}.dead_letters.jsonl")


def _write_parquet(file: Any, session_id: Sequence[str], answers: Answers) -> None:
    ends = pa.array(np.concatenate([[0], np.cumsum(answers.n_items)]), pa.int32())
    table = pa.table(
        {
            schema.SESSION_ID: pa.array(session_id, pa.string()),
            schema.ITEM_ID: pa.ListArray.from_arrays(ends, pa.array(answers.item_id, pa.binary()).cast(pa.string())),
            SCORE: pa.ListArray.from_arrays(ends, pa.array(answers.score, pa.float32())),
            MODEL_VERSION: pa.array(answers.model_version, pa.string()),
        }
    )
    pq.write_table(table, file)


def _write_lines(file: Any, session_id: Sequence[str], answers: Answers) -> None:
    end = 0
    for session, n_items, version in zip(session_id, answers.n_items.tolist(), answers.model_version):
        start, end = end, end + n_items
        values = {
            schema.SESSION_ID: session,
            schema.ITEM_ID: [item.decode() for item in answers.item_id[start:end]],
            SCORE: answers.score[start:end].tolist(),
            MODEL_VERSION: version,
        }
        file.write(f"{json.dumps(values, ensure_ascii=False)}\n".encode())
