"""The command `fp-tfrs demo`: models, sample sessions and titles → a page on this machine, until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Sequence

from fp_tfrs import config_file, progress, schema
from fp_tfrs.data import examples
from fp_tfrs.demo import explaining, samples, server
from fp_tfrs.demo.content import Content
from fp_tfrs.errors import InputError
from fp_tfrs.experiments.titles import TitlesPlan, read_titles
from fp_tfrs.serving.request import Request
from fp_tfrs.serving.saved_model import find_version
from pipeline.log_reading import raw_examples


def show(
    model: str,
    compare: str | None,
    config: str | None,
    events: str | None,
    since: str | None,
    titles: str | None,
    port: int,
) -> None:
    """Serves the page and says where; returns when it is stopped.

    Args:
        model, compare: a version's folder, or the folder of versions; None = no second model.
        config: a run's YAML: sample sessions are of its test split; None = those that the model was probed with.
        events: another log in the config's format; None = its own.
        since: in place of the config's data.since.
        titles: a YAML file that says where titles are, as experiments have it; None = items are shown by their ids.
        port: 0 = any that is free.

    Raises:
        InputError: one of these cannot be used.
    """
    if events is not None and config is None:
        raise InputError(f"--events {events}: add --config, which says how the log is read")
    run = None if config is None else config_file.load(config, since)
    plan = None if titles is None else config_file.load_section(titles, TitlesPlan)
    with server.bind(port) as at:
        models = [explaining.load(find_version(model))]
        if compare is not None:
            models.append(explaining.load(find_version(compare, "--compare")))
        found: Sequence[Request]
        if run is None:
            found = samples.from_export(find_version(model))
        else:
            with raw_examples(run, events, None) as folder:
                sessions = examples.read_sessions(folder, schema.TEST)
            found = samples.from_log(sessions, models[0].catalogue, run.seed)
        if not found:
            progress.say("no sample sessions: none can be read beside the model, and --config names no log")
        items = dict.fromkeys(item for one in models for item in one.catalogue)
        content = Content(models, found, {} if plan is None else read_titles(plan, items))
        print(f"http://{server.ADDRESS}:{at.getsockname()[1]}/ shows the page; Ctrl-C stops it", flush=True)
        asyncio.run(_serve(content, at))
    progress.say("stopped")


async def _serve(content: Content, at: socket.socket) -> None:
    """Until Ctrl-C, or whoever started this, stops it."""
    serving = asyncio.ensure_future(server.serve(content, at))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serving
