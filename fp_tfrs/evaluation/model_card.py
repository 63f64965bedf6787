"""The model card: what a model was trained on, what it is for, how good it is and where it isn't; Markdown and HTML.

In: the configuration, the data's manifest, the report and its verdict. Out: two files, which go with the model wherever it
is pushed to. The last step of judging a model.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Mapping

import jinja2
from markdown_it import MarkdownIt

from fp_tfrs import storage
from fp_tfrs.config import RunConfig
from fp_tfrs.data.events import describe_rule
from fp_tfrs.data.manifest import Manifest
from fp_tfrs.evaluation.blessing import Blessing
from fp_tfrs.evaluation.evaluate import MODEL, TABLE_METRICS, Difference, Figure, Report
from fp_tfrs.methods import resolve

MARKDOWN_FILE = "model_card.md"
HTML_FILE = "model_card.html"
FILES = (MARKDOWN_FILE, HTML_FILE)
METRIC = "mrr@20"
_FEW_TARGETS = 100
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Model card: {title}</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; display: block; overflow-x: auto; }}
td, th {{ padding: .2rem .7rem; text-align: left; border-bottom: 1px solid #8886; }}
</style>
{body}
</html>
"""


def write_card(
    folder: str,
    run: RunConfig,
    about: Mapping[str, object],
    manifest: Manifest,
    report: Report,
    verdict: Blessing,
) -> None:
    """Writes `model_card.md` and `model_card.html`.

    Args:
        folder: where they go; it is made.
        run: the configuration that the model was trained by.
        about: what its export says of itself, see `metadata.of_export`.
        manifest: of the raw examples.
        report: of the test split.
        verdict: whether the model may be served.
    """
    text = make_card(run, about, manifest, report, verdict)
    storage.make_folder(folder)
    storage.write_text(os.path.join(folder, MARKDOWN_FILE), text)
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    storage.write_text(os.path.join(folder, HTML_FILE), _PAGE.format(title=run.name, body=body))


def make_card(
    run: RunConfig, about: Mapping[str, object], manifest: Manifest, report: Report, verdict: Blessing
) -> str:
    """The card as Markdown; arguments as of `write_card`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(os.path.dirname(__file__)),
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["utc"] = _utc
    method = resolve(run.model)
    shown = {
        "tp": "kept clicks alone",
        "all": "all clicks alike",
        "marked": "all clicks, each marked as kept or abandoned",
    }
    identity = {
        "version": _code(str(about["model_version"])),
        "configuration": _code(str(about["config_fingerprint"])),
        "data": _code(manifest.fingerprint),
        "method": f"{method.name}, trained on {shown[method.inputs]}",
        "session tower": f"{run.model.tower.name}, {run.model.tower.embedding_dim} dimensions",
        "seed": str(run.seed),
    }
    needed = [
        ", and for each whether it was abandoned" * (method.inputs != "all" or run.model.penalty > 0),
        "; the user's id" * run.model.has_users,
        "; the items of the user's earlier sessions" * run.model.has_history,
        "; what was shown and not clicked" * (run.model.xdm is not None),
    ]
    text = environment.get_template("model_card.md.j2").render(
        run=run,
        manifest=manifest,
        report=report,
        verdict=verdict,
        identity=list(identity.items()),
        inputs="".join(needed),
        source=_source(run),
        splits=f"The splits are of sessions, by {'time' if run.data.split.by == 'time' else 'chance'}.",
        rules=[_code(describe_rule(rule)) for rule in run.data.false_positive_when],
        metrics=TABLE_METRICS,
        figures=[
            (name, [_figure(metrics[metric]) for metric in TABLE_METRICS]) for name, metrics in report.metrics.items()
        ],
        differences=[(name, *_difference(found[METRIC])) for name, found in report.differences.items()],
        slices=list(_slices(report)),
        limits=_limits(report),
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def _source(run: RunConfig) -> str:
    source = run.data.source
    if source.format == "simulated":
        return "A simulated log"
    if source.format == "tfds":
        return f"The data set {_code('/'.join(filter(None, (source.name, source.config))))}"
    return f"The {source.format} log {', '.join(_code(os.path.basename(file)) for file in source.files)}"


def _slices(report: Report) -> list[tuple[str, str, str, str, str]]:
    """Rows of the table; the last cell says which are worse than the whole, beyond chance."""
    overall = report.metrics[MODEL][METRIC].value
    rows = []
    for kind, slices in report.slices.items():
        for name, metrics in slices.items():
            figure = metrics[METRIC]
            is_worse = figure.high is not None and overall is not None and figure.high < overall
            rows.append((kind, name, f"{figure.targets:,}", _figure(figure), "below the whole" * is_worse))
    return rows


def _limits(report: Report) -> list[str]:
    """What to know before trusting the figures, from the figures themselves."""
    counts, model = report.counts, report.metrics[MODEL]
    unseen = f"{counts.unseen_share:.1%} of the test targets are of items that training did not have"
    found = [
        "The targets are what people clicked under the recommender of their time: what it did not show, nobody could click.",
        f"{unseen}; the figures leave them out, and the model can never recommend them.",
    ]
    fp_hr, hr = model["fp_hr@20"].value, model["hr@20"].value
    if fp_hr is not None and hr is not None:
        more = "more" if fp_hr > hr else "less"
        found.append(
            f"What will be abandoned is among the first 20 at {fp_hr:.1%} of the abandoned clicks, {more} often than what will be "
            f"kept ({hr:.1%})."
        )
    coverage = report.coverage.get(MODEL)
    if coverage is not None:
        found.append(f"The lists of 20 of all test sessions show {coverage:.1%} of the catalogue.")
    small = [
        f"{kind} {name}"
        for kind, slices in report.slices.items()
        for name, metrics in slices.items()
        if metrics[METRIC].targets < _FEW_TARGETS
    ]
    if small:
        found.append(f"Slices of fewer than {_FEW_TARGETS} targets say little: {', '.join(small)}.")
    return found


def _figure(figure: Figure) -> str:
    if figure.value is None:
        return "–"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.4f}"
    return f"{figure.value:.4f} [{figure.low:.4f}, {figure.high:.4f}]"


def _difference(found: Difference) -> tuple[str, str, str]:
    if found.difference is None or found.low is None or found.high is None:
        return ("–", "–", "–")
    p = "–" if found.p_holm is None else f"{found.p_holm:.3g}"
    return f"{found.difference:+.4f}", f"[{found.low:+.4f}, {found.high:+.4f}]", p


def _code(text: str) -> str:
    """Text from outside as a code span that ends neither the span nor a table's cell; without line breaks."""
    return "`" + re.sub(r"\s+", " ", text).replace("`", "'").replace("|", "¦") + "`"


def _utc(time_s: int) -> str:
    return datetime.datetime.fromtimestamp(time_s, datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
