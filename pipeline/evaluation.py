"""The command `fp-tfrs evaluate`: a pushed model and an event log → figures of the log's test targets, in a file and a table."""

from __future__ import annotations

import os
import tempfile

from fp_tfrs import config_file, storage
from fp_tfrs.errors import InputError
from fp_tfrs.evaluation import judging
from fp_tfrs.evaluation.evaluate import format_table
from fp_tfrs.serving.saved_model import find_version
from pipeline.log_reading import raw_examples


def evaluate(
    model: str, config: str, events: str | None, since: str | None, output: str, *, has_unclicked: bool
) -> str:
    """Writes the figures, and gives them as a table.

    Args:
        model: a version's folder, or the folder of versions.
        config: a run's YAML.
        events: see `raw_examples`.
        since: in place of the configuration's.
        output: file for the figures; rows that cannot be read go beside it.
        has_unclicked: whether the model is told what was shown and not clicked.

    Raises:
        InputError: there is no such model or log, or the file could not be written.
    """
    run = config_file.load(config, since)
    model_dir = find_version(model)
    _check_output(output)
    with raw_examples(run, events, f"{output}.dead_letters.jsonl") as examples_dir:
        report = judging.evaluate_export(
            model_dir, examples_dir, run.data, run.evaluation, run.seed, has_unclicked=has_unclicked
        )
    judging.write_report(report, output)
    return format_table(report)


def _check_output(output: str) -> None:
    """Before the log is read: that may take hours."""
    if os.path.isdir(output):
        raise InputError(f"--output {output} is a folder; give a file for the metrics")
    try:
        storage.make_folder(storage.parent(output))
        if storage.is_local(output):
            tempfile.TemporaryFile(dir=os.path.dirname(output) or os.curdir).close()
    except OSError as error:
        raise InputError(
            f"--output {output} can't be written ({error.strerror or error}); give another file"
        ) from error
