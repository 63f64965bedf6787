"""What a run says at its end: the table, the verdict, where the model is, and what to try next."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys

from fp_tfrs import storage
from fp_tfrs.config import RunConfig
from fp_tfrs.evaluation import evaluate, judging
from fp_tfrs.serving.saved_model import find_version, list_versions, read_catalogue
from pipeline.local_runner import NodeResult


def summarise(run: RunConfig, config_path: str, results: dict[str, NodeResult], took_s: float) -> list[str]:
    """The closing lines of `fp-tfrs run`.

    Args:
        run: the configuration.
        config_path: where it was read from.
        results: node id → what it left, of `local_runner.run_pipeline`.
        took_s: seconds of the whole run.
    """
    report = judging.read_report(
        os.path.join(results["RankingEvaluator"].outputs["evaluation_result"].uri, judging.REPORT_FILE)
    )
    cached = sum(result.is_cached for result in results.values())
    lines = ["", evaluate.format_table(report), ""]
    blessing = results["RankingEvaluator"].outputs["blessing"]
    pushed = results["Pusher"].outputs["pushed_model"]
    is_blessed = blessing.custom_properties["blessed"].int_value == 1
    lines.append("blessed:" if is_blessed else "not blessed, and so not pushed:")
    with open(os.path.join(blessing.uri, "BLESSED" if is_blessed else "NOT_BLESSED"), encoding="utf-8") as file:
        lines += [f"  {line.rstrip()}" for line in file]
    lines.append(_say_who_asked(results))
    if cached == len(results):
        lines.append(f"nothing has changed: all {cached} nodes were answered from the last run ({took_s:.0f} s)")
    else:
        lines.append(f"{len(results) - cached} of {len(results)} nodes ran, {cached} were unchanged ({took_s:.0f} s)")
    if is_blessed:
        lines += describe_pushed(pushed.custom_properties["pushed_destination"].string_value)
    return lines


def describe_pushed(version_dir: str) -> list[str]:
    """What has become of a pushed version, and how to ask what is served."""
    models = os.path.dirname(version_dir)
    if not list_versions(models):
        remedy = "remove the root's artifacts and metadata.sqlite, and the same command runs every node again"
        return [f"pushed: {version_dir}, but no version is left in {models}; {remedy}"]
    lines = [f"pushed: {version_dir}"]
    newest = find_version(models)
    if newest != version_dir:
        removed = "" if storage.exists(version_dir) else " (this one was removed: serving.keep)"
        lines.append(f"served since: {newest}{removed}")
    example = ",".join(read_catalogue(newest)[:3])
    lines.append(
        f"try: {_name_command()} recommend --model {shlex.quote(os.path.relpath(newest))} --items {shlex.quote(example)}"
    )
    return lines


def _say_who_asked(results: dict[str, NodeResult]) -> str:
    """Which nodes have loaded the export and asked it; each of them ends the run otherwise."""
    uri = results["ServingProbe"].outputs["blessing"].uri
    with open(os.path.join(uri, "INFRA_BLESSED"), encoding="utf-8") as file:
        n_requests = json.load(file)["requests"]
    said = f"answers as trained: ServingProbe sent {n_requests} requests to every signature of the export"
    server = "; InfraValidator had TensorFlow Serving load and answer it" if "InfraValidator" in results else ""
    return said + server


def _name_command() -> str:
    """How this shell can call us: by name, or by path where the virtual environment is not activated."""
    called = sys.argv[0]
    is_path_needed = os.path.basename(called) == "fp-tfrs" and shutil.which("fp-tfrs") is None
    return shlex.quote(os.path.relpath(called)) if is_path_needed else "fp-tfrs"
