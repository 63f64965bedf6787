"""Probe: does an exported model answer a model server's requests as it was trained to? Judged in a fresh process.

In: an export with the expectations that `exporting.export` writes beside it. The process (`python -m fp_tfrs.serving.probe DIR`)
imports TensorFlow but no training code, runs every signature in a graph session, and prints a JSON result; exit code
1 when an answer is wrong or missing. `probe` starts it and returns the result.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fp_tfrs import storage
from fp_tfrs.processes import command_of
from fp_tfrs.serving import expectations
from fp_tfrs.serving.expectations import Expectation
from fp_tfrs.serving.request import Request

if TYPE_CHECKING:
    from fp_tfrs.serving.saved_model import SavedModel

TIMEOUT_S = 600.0


@dataclasses.dataclass(frozen=True)
class ProbeResult:
    """What the probe found; on failure the signature, the request as JSON values, and what was wrong in one line."""

    is_ok: bool
    message: str
    signature: str = ""
    request: dict[str, Any] | None = None
    trace: str = ""
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)  # requests, seconds to load and to answer


def probe(directory: str | os.PathLike[str], timeout_s: float = TIMEOUT_S) -> ProbeResult:
    """Probes the export in `directory` in a process of its own; never raises for what the export does."""
    command = command_of(__name__, os.fspath(directory))
    try:
        run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return ProbeResult(False, f"{directory} did not answer within {timeout_s:g} s")
    try:
        return ProbeResult(**json.loads(run.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        return ProbeResult(
            False, f"the probe of {directory} died, exit code {run.returncode}", trace=run.stderr[-4000:]
        )


class _Failure(Exception):
    """A wrong answer, as a sentence."""


class _Asked:
    """The request under way, for the report of a failure."""

    signature = ""
    request: dict[str, Any] | None = None


def examine(directory: str) -> ProbeResult:
    """The probe itself, in this process."""
    asked, started_s = _Asked(), time.monotonic()
    try:
        expected = expectations.read(os.path.join(directory, expectations.FILE_NAME))
        from fp_tfrs.serving.saved_model import SavedModel  # TensorFlow: only in the process that needs it

        model = SavedModel(directory)
        loaded_s = time.monotonic()
        for name in ("recommend", "recommend_among"):
            of_signature = [one for one in expected if one.request.signature == name]
            _check_recommendations(name, functools.partial(model.answer, signature=name), of_signature, asked)
        _check_recommendations(
            "serving_default",
            lambda requests: model.recommend_examples([request.to_example() for request in requests]),
            expected,
            asked,
        )
        _check_ranks(model.rank_targets, expected, asked)
        n_warmed = _replay_warmup(model, directory, asked)
    except Exception as error:  # noqa: BLE001 (whatever a broken export raises is the finding)
        sentence = " ".join(str(error).split())[:500]
        cause = sentence if isinstance(error, _Failure) else f"{type(error).__name__}: {sentence}"
        where = asked.signature or "loading"
        return ProbeResult(False, f"{where}: {cause}", asked.signature, asked.request, traceback.format_exc())
    figures = {
        "requests": len(expected),
        "warmup_requests": n_warmed,
        "load_s": round(loaded_s - started_s, 3),
        "answer_s": round(time.monotonic() - loaded_s, 3),
    }
    return ProbeResult(True, f"{len(expected)} requests to every signature answered as trained", figures=figures)


def _check_recommendations(
    signature: str, answer: Callable[[Sequence[Request]], Any], expected: Sequence[Expectation], asked: _Asked
) -> None:
    """Asks for all sessions in one batch, for none, and for each alone."""
    asked.signature = signature
    for batch in (expected, [], *([one] for one in expected)):
        asked.request = batch[0].request._asdict() if len(batch) == 1 else {"sessions": len(batch)}
        answers = answer([one.request for one in batch])
        if not len(answers.item_id) == len(answers.score) == len(answers.model_version) == len(batch):
            raise _Failure(f"{len(answers.item_id)} answers to {len(batch)} sessions")
        for one, item_id, score in zip(batch, answers.item_id, answers.score):
            wrong = expectations.difference(one, item_id, score)
            if wrong:
                asked.request = one.request._asdict()
                raise _Failure(wrong)


def _check_ranks(rank: Callable[[Sequence[Request]], Any], expected: Sequence[Expectation], asked: _Asked) -> None:
    """Asks for the rank of each session's target, in one batch."""
    asked.signature, asked.request = "rank", {"sessions": len(expected)}
    ranks = rank([one.request for one in expected])
    for one, served in zip(expected, ranks, strict=True):
        if not one.rank_low <= served <= one.rank_high:
            asked.request = one.request._asdict()
            raise _Failure(f"rank {served} of {one.request.target!r}; trained: {one.rank_low} to {one.rank_high}")


def _replay_warmup(model: SavedModel, directory: str, asked: _Asked) -> int:
    """Asks what a server will ask before it serves the version; the number of requests, 0 without a warm-up file."""
    from fp_tfrs.serving import warmup

    path = os.path.join(directory, warmup.FILE_NAME)
    if not storage.exists(path):
        return 0
    asked.signature, asked.request = "warm-up", {}
    n_requests = 0
    for signature, inputs in warmup.read(path):
        asked.request = {"signature": signature, "number": n_requests}
        model.call(signature, **inputs)
        n_requests += 1
    return n_requests


if __name__ == "__main__":
    outcome = examine(sys.argv[1])
    print(json.dumps(dataclasses.asdict(outcome)))
    sys.exit(0 if outcome.is_ok else 1)
