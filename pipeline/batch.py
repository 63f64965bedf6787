"""The command `fp-tfrs batch-recommend`: sessions in files → recommendations in files, on the machines of a config's `beam`."""

from __future__ import annotations

import os
from collections.abc import Sequence

import apache_beam as beam

from fp_tfrs import config_file, storage
from fp_tfrs.config import BeamConfig
from fp_tfrs.config.beam import IN_PROCESS
from fp_tfrs.errors import InputError
from fp_tfrs.serving import batch
from fp_tfrs.serving.saved_model import find_version
from pipeline import preflight, several_workers


def recommend(
    model: str, patterns: Sequence[str], output: str, k: int, file_format: str, config: str | None
) -> list[str]:
    """Answers the sessions, and says what became of them.

    Args:
        model: a version's folder, or the folder of versions.
        config: a run's YAML; None = all work is done in this process.

    Raises:
        InputError, RunError: as `batch.recommend_all`.
    """
    if k < 1:
        raise InputError(f"-k {k}: ask for 1 item at least")
    section = BeamConfig() if config is None else config_file.load(config).beam
    if storage.is_local(output):
        preflight.check_workers(section)
    several_workers.make_safe()
    arguments = section.arguments()
    manifest = batch.recommend_all(
        find_version(os.path.abspath(model) if storage.is_local(model) else model),
        [os.path.abspath(pattern) if storage.is_local(pattern) else pattern for pattern in patterns],
        os.path.abspath(output) if storage.is_local(output) else output,  # workers may be in another folder
        k,
        file_format,
        lambda: beam.Pipeline(argv=arguments),
        is_in_process=IN_PROCESS in arguments,
    )
    return batch.format_summary(manifest, output, k)
