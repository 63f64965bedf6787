"""The command line: `fp-tfrs COMMAND`; `fp-tfrs --help` lists the commands.

Results go to stdout, progress and messages to stderr. Exit code 0: done; 1: the run failed; 2: the input cannot be used.
Each command imports what it needs when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import time
from typing import NoReturn

import fp_tfrs
from fp_tfrs import progress
from fp_tfrs.errors import InputError, RunError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr has it: a locale may lack λ
    parsed = _make_parser().parse_args(arguments)
    progress.set_quiet(parsed.quiet)
    try:
        parsed.command(parsed)
    except InputError as error:
        return _fail(error, 2)
    except RunError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("stopped; the same command goes on from here", 128 + signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone, as with `| head`
        return 0
    except OSError as error:
        return _fail(f"{error.filename or 'input/output'}: {error.strerror or error}", 1)
    return 0


def _fail(error: object, code: int) -> int:
    print(f"fp-tfrs: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def _add_since(command: argparse.ArgumentParser) -> None:
    text = "read newer events only: an ISO 8601 time, or 30d before the log's end; splits are of what is read"
    command.add_argument("--since", metavar="TIME", help=text)


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="fp-tfrs", description="Recommendations that learn from what people abandon.")
    parser.add_argument("--version", action="version", version=f"fp-tfrs {fp_tfrs.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function: object, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.add_argument("--quiet", action="store_true", help="of progress a line at the end of each step only")
        command.set_defaults(command=function)
        return command

    run = add("run", _run, "event log → evaluated, blessed and pushed model")
    run.add_argument("--config", required=True, metavar="YAML", help="what to run; configs/ has some")
    run.add_argument("--root", required=True, metavar="DIR", help="folder for everything that the run writes")
    _add_since(run)

    tune = add("tune", _tune, "search for better settings; with tuner.enabled, run takes them over")
    tune.add_argument("--config", required=True, metavar="YAML", help="what to search; its section tuner says how")
    tune.add_argument("--root", required=True, metavar="DIR", help="folder for everything that the search writes")
    _add_since(tune)

    add(
        "train-worker", _train_worker, "share the work of the chief's training, as TF_CONFIG says; run starts the chief"
    )

    compiled = add("compile", _compile, "the same pipeline as a file that Kubeflow or Vertex AI runs")
    compiled.add_argument("--config", required=True, metavar="YAML", help="what to run; its section kubeflow says how")
    compiled.add_argument("--root", required=True, metavar="URL", help="folder for everything that the pipeline writes")
    compiled.add_argument("--image", required=True, metavar="IMAGE", help="the containers' image; deploy/ builds it")
    compiled.add_argument("--out", required=True, metavar="FILE", help=".yaml for Kubeflow, .json for Vertex AI")
    compiled.add_argument("--since", metavar="TIME", help="as run has it; 30d is counted whenever the pipeline runs")

    simulate = add("simulate", _simulate, "draw an event log from a model with known probabilities")
    simulate.add_argument("--out", required=True, metavar="CSV", help="file to write; packed if it ends in .gz")
    simulate.add_argument("--sessions", type=int, default=20_000, metavar="N", help="default: %(default)s")
    simulate.add_argument("--items", type=int, default=1_000, metavar="N", help="default: %(default)s")
    simulate.add_argument("--seed", type=int, default=17, metavar="S", help="default: %(default)s")
    simulate.add_argument(
        "--slate", type=int, metavar="K", help="items shown at each step, as rows with is_click; default: clicks only"
    )

    recommend = add("recommend", _recommend, "ask a pushed model for the next items of a session")
    where = recommend.add_mutually_exclusive_group(required=True)
    where.add_argument("--model", metavar="DIR", help="a version's folder, or the folder of versions")
    where.add_argument("--url", metavar="URL", help="a model server's REST interface, http://host:8501; with --name")
    where.add_argument("--grpc", metavar="HOST:PORT", help="a model server's gRPC interface, host:8500; with --name")
    recommend.add_argument("--name", metavar="M", help="the model's name on the server")
    recommend.add_argument(
        "--timeout", type=float, default=10.0, metavar="S", help="of each answer of the server; default: %(default)g s"
    )
    recommend.add_argument("--items", required=True, metavar="a,b,c", help="the session's item ids, oldest first")
    recommend.add_argument("--fp", metavar="0,1,0", help="1 for each item that was abandoned; default: none was")
    recommend.add_argument("--user", metavar="ID", help="the session's user, for a model with users")
    recommend.add_argument(
        "--history",
        metavar="x,y",
        help="items of the user's earlier sessions, latest first, for a model with histories",
    )
    recommend.add_argument(
        "--unclicked",
        metavar="x,y",
        help="items that the user was shown and did not click, last shown first, for a model with model.xdm",
    )
    recommend.add_argument("--allow", metavar="p,q", help="items that may be recommended; default: all")
    recommend.add_argument("--deny", metavar="r,s", help="items that may not")
    recommend.add_argument("-k", type=int, default=10, metavar="K", help="how many items; default: %(default)s")

    batch = add("batch-recommend", _batch_recommend, "recommend for files of sessions; a killed command goes on")
    batch.add_argument("--model", required=True, metavar="DIR", help="a version's folder, or the folder of versions")
    batch.add_argument(
        "--input", required=True, nargs="+", metavar="FILES", help="sessions: .parquet, .jsonl, TFRecords; or a folder"
    )
    batch.add_argument("--output", required=True, metavar="DIR", help="folder for the answers")
    batch.add_argument("--format", choices=("parquet", "jsonl"), default="parquet", help="default: %(default)s")
    batch.add_argument("-k", type=int, default=10, metavar="K", help="how many items; default: %(default)s")
    batch.add_argument(
        "--config", metavar="YAML", help="whose section beam says on what machines; default: this process"
    )

    rollback = add("rollback", _rollback, "serve an earlier version again, as a new one")
    rollback.add_argument("--model", required=True, metavar="DIR", help="the folder of versions, ROOT/serving/NAME")
    rollback.add_argument("--to", metavar="VERSION", help="default: the last one before what is served")

    label = add("label", _label, "name the versions that TensorFlow Serving serves: stable, canary")
    label.add_argument("--model", required=True, metavar="DIR", help="the folder of versions, ROOT/serving/NAME")
    label.add_argument(
        "labels", nargs="+", metavar="NAME=VERSION", help="all that there are to be; goes to ROOT/serving/models.config"
    )

    evaluate = add("evaluate", _evaluate, "score a pushed model on the test targets of an event log")
    evaluate.add_argument("--model", required=True, metavar="DIR", help="a version's folder, or the folder of versions")
    evaluate.add_argument("--config", required=True, metavar="YAML", help="how the log is read, cut and split")
    evaluate.add_argument(
        "--events", metavar="FILE", help="a log in the config's format (else CSV); default: the config's own log"
    )
    _add_since(evaluate)
    evaluate.add_argument("--output", required=True, metavar="JSON", help="file for the metrics")
    evaluate.add_argument(
        "--without-unclicked",
        action="store_true",
        help="don't tell the model what was shown and not clicked: what does it make of that?",
    )

    demo = add("demo", _demo, "a page to try a model on: mark what was abandoned, see what changes, and why")
    demo.add_argument("--model", required=True, metavar="DIR", help="a version's folder, or the folder of versions")
    demo.add_argument("--compare", metavar="DIR", help="a second model, to see the two side by side")
    demo.add_argument(
        "--config", metavar="YAML", help="sample sessions from this log's test split; default: some beside the model"
    )
    demo.add_argument("--events", metavar="FILE", help="another log in the config's format (else CSV)")
    _add_since(demo)
    demo.add_argument("--titles", metavar="YAML", help="where the items' titles are; configs/titles/ has one")
    demo.add_argument("--port", type=int, default=8642, metavar="N", help="0: any; default: %(default)s")

    experiment = add("experiment", _experiment, "compare methods on data sets: tuned alike, several seeds, one report")
    experiment.add_argument("config", metavar="YAML", help="what to compare; configs/experiments/ has some")
    experiment.add_argument(
        "--data", nargs="+", default=(), metavar="YAML", help="runs' files: compare on their data, not the experiment's"
    )
    experiment.add_argument(
        "--root", default="runs/experiments", metavar="DIR", help="data, weights; default: %(default)s"
    )
    experiment.add_argument(
        "--results", metavar="DIR", help="finished runs, tables and reports, for all experiments; default: ROOT/results"
    )
    experiment.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="of this process; 1 where several share the work; default: all",
    )
    experiment.add_argument("--report", action="store_true", help="train nothing, only report what is finished")

    config = add("config", _config, "what can be configured")
    config.add_argument(
        "--explain", action="store_true", required=True, help="every field: type, default, meaning, source"
    )
    return parser


def _run(parsed: argparse.Namespace) -> None:
    from fp_tfrs import config_file
    from pipeline import preflight

    started_s = time.monotonic()
    run = config_file.load(parsed.config, parsed.since)
    preflight.check_inputs(run)
    progress.say(f"fp-tfrs {fp_tfrs.__version__}: {run.name}, {run.model.method}, from {parsed.config}")
    from pipeline import local_runner, summary

    results = local_runner.run_pipeline(run, parsed.root)
    for line in summary.summarise(run, parsed.config, results, time.monotonic() - started_s):
        print(line)


def _tune(parsed: argparse.Namespace) -> None:
    from fp_tfrs import config_file, storage
    from fp_tfrs.config import RunConfig, assign
    from pipeline import preflight

    values = config_file.read_values(parsed.config)
    assign(values, "tuner.enabled", True)
    if parsed.since is not None:
        assign(values, "data.since", parsed.since)
    run = config_file.parse_values(values, f"config {parsed.config}", RunConfig)
    preflight.check_inputs(run)
    from fp_tfrs.tuning import report as tuning_report
    from pipeline import local_runner

    results = local_runner.run_pipeline(run, parsed.root, "Tuner")
    trials = tuning_report.read_trials(results["Tuner"].outputs["tuner_results"].uri)
    print(tuning_report.format_table(trials, run.tuner.objective))
    picture = tuning_report.draw_lambda_margin(trials, run.tuner)
    if picture is not None:
        path = os.path.join(parsed.root, "lambda_margin.png")
        with storage.replacing(path) as file:
            file.write(picture)
        print(f"λ × margin: {path}")


def _train_worker(parsed: argparse.Namespace) -> None:
    from pipeline import training_job

    training_job.work()


def _compile(parsed: argparse.Namespace) -> None:
    from fp_tfrs import config_file
    from pipeline import kubeflow_runner

    run = config_file.load(parsed.config, parsed.since)
    n_nodes = kubeflow_runner.compile_pipeline(run, parsed.root, parsed.image, parsed.out)
    print(f"{parsed.out}: {n_nodes} nodes of {run.name}, to run on {parsed.image} and to write under {parsed.root}")


def _simulate(parsed: argparse.Namespace) -> None:
    import pydantic

    from fp_tfrs.config import SimulationConfig
    from fp_tfrs.simulation import simulate

    try:
        settings = SimulationConfig(sessions=parsed.sessions, items=parsed.items, seed=parsed.seed, slate=parsed.slate)
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        raise InputError(f"--{problem['loc'][0]} {problem['input']}: {problem['msg'].lower()}") from None
    rows = simulate.simulate_log(settings, parsed.out)
    kind = "events" if settings.slate is None else "shown items"
    print(f"{parsed.out}: {rows:,} {kind} in {settings.sessions:,} sessions over {settings.items:,} items")


def _recommend(parsed: argparse.Namespace) -> None:
    items = _ids(parsed.items)
    flags = _ids(parsed.fp) if parsed.fp else ["0"] * len(items)
    if len(flags) != len(items) or set(flags) - {"0", "1"}:
        raise InputError(f"--fp {parsed.fp}: give a 0 or 1 for each of the {len(items)} items")
    if parsed.k < 1:
        raise InputError(f"-k {parsed.k}: ask for 1 item at least")
    if (parsed.name is None) != (parsed.model is not None):
        raise InputError("--name is the model's name on a server: give it with --url or --grpc, and only then")
    if not 0 < parsed.timeout < float("inf"):
        raise InputError(f"--timeout {parsed.timeout:g}: give a number of seconds above 0")
    from fp_tfrs.serving import client
    from fp_tfrs.serving.request import Request

    model: client.Client
    if parsed.model is not None:
        model = client.FolderClient(parsed.model)
    elif parsed.url is not None:
        model = client.RestClient(parsed.url, parsed.name, parsed.timeout)
    else:
        model = client.GrpcClient(parsed.grpc, parsed.name, parsed.timeout)
    for option, value, name in (
        ("--items", parsed.items, "item_id"),
        ("--user", parsed.user, "user_id"),
        ("--history", parsed.history, "history_item_id"),
        ("--unclicked", parsed.unclicked, "unclicked_item_id"),
        ("--allow", parsed.allow, "allowed_item_id"),
        ("--deny", parsed.deny, "denied_item_id"),
    ):
        if value is not None and name not in model.takes:
            raise InputError(f"{option} {value}: {model.place} takes no {name}; leave {option} out")
        if value is not None and any(
            "\ud800" <= letter <= "\udfff" for letter in value
        ):  # what argv has for other bytes
            raise InputError(f"{option} {value!r} is not UTF-8, as ids are")
    history, unclicked, allowed, denied = map(_ids, (parsed.history, parsed.unclicked, parsed.allow, parsed.deny))
    if parsed.allow is not None and not allowed:
        raise InputError(f"--allow {parsed.allow}: name the items that may be recommended, or leave --allow out")
    marks = [int(flag) for flag in flags]
    request = Request(items, marks, parsed.user or "", history, unclicked, "", allowed, denied)
    found = model.recommend(request)
    for item, score in found[: parsed.k]:
        print(f"{item}\t{score:.4f}")
    for remark in client.remarks(request, len(found), parsed.k, model.catalogue):
        print(f"fp-tfrs: {remark}", file=sys.stderr)


def _ids(text: str | None) -> list[str]:
    """What is between commas, as logs are read: without spaces around it."""
    return [item.strip() for item in (text or "").split(",") if item.strip()]


def _batch_recommend(parsed: argparse.Namespace) -> None:
    from pipeline import batch

    for line in batch.recommend(parsed.model, parsed.input, parsed.output, parsed.k, parsed.format, parsed.config):
        print(line)


def _rollback(parsed: argparse.Namespace) -> None:
    from pipeline import versions

    print(versions.roll_back(parsed.model, parsed.to))


def _label(parsed: argparse.Namespace) -> None:
    from pipeline import versions

    for line in versions.label(parsed.model, parsed.labels):
        print(line)


def _evaluate(parsed: argparse.Namespace) -> None:
    from pipeline import evaluation

    has_unclicked = not parsed.without_unclicked
    print(
        evaluation.evaluate(
            parsed.model, parsed.config, parsed.events, parsed.since, parsed.output, has_unclicked=has_unclicked
        )
    )


def _demo(parsed: argparse.Namespace) -> None:
    from pipeline import demo

    demo.show(parsed.model, parsed.compare, parsed.config, parsed.events, parsed.since, parsed.titles, parsed.port)


def _experiment(parsed: argparse.Namespace) -> None:
    from fp_tfrs.experiments.plan import Plan

    plan = Plan(parsed.config, parsed.data)
    results_dir = parsed.results or os.path.join(parsed.root, "results")
    if parsed.threads < 0:
        raise InputError(f"--threads {parsed.threads}: give the number of cores for this process, or 0 for all")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(parsed.threads)
    tf.config.threading.set_inter_op_parallelism_threads(parsed.threads)
    from fp_tfrs.experiments import outputs
    from fp_tfrs.experiments.runner import Workshop
    from pipeline import local_runner

    workshop = Workshop(plan, local_runner.prepare_data, parsed.root, results_dir)
    refused = [] if parsed.report else workshop.work(progress.say)
    for line in outputs.write_outputs(workshop, os.path.join(results_dir, plan.experiment.name)):
        print(line)
    if refused:
        raise InputError(f"{len(refused)} of {len(plan.experiment.cells())} cells left out: {'; '.join(refused)}")


def _config(parsed: argparse.Namespace) -> None:
    from fp_tfrs import config_file

    for path, kind, default, meaning, source in config_file.explain():
        print(f"{path}\n    {kind}; default {default}; source: {source or '-'}\n    {meaning}")


if __name__ == "__main__":
    sys.exit(main())
