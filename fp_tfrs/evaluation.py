"""Judges a model: every metric with its interval, beside baselines, on one list of targets.

In: the model as a function from raw sessions to ranks (the export's `rank` signature), test and training sessions, the
catalogue. Out: a `Report`, which is `metrics.json`, and a table of it. It sees the model through its raw ids alone, so
the pipeline's evaluator and `fp-tfrs evaluate` on a pushed model come to the same figures.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import pydantic
import scipy.sparse

from fp_tfrs import baselines
from fp_tfrs.baselines import Ranker
from fp_tfrs.bootstrap import ratio_intervals
from fp_tfrs.config import CUTOFFS
from fp_tfrs.errors import RunError
from fp_tfrs.metrics import metric_matrix, ranks_from_scores
from fp_tfrs.progress import Progress
from fp_tfrs.sessions import Session
from fp_tfrs.targets import Targets, list_targets

MODEL = "model"
LAST_BLESSED = "last_blessed"
COMPARED_METRICS = ("hr@20", "mrr@20")
TABLE_METRICS = ("hr@20", "mrr@20", "ndcg@20", "fp_hr@20")
LENGTH_SLICES = {"1": (1, 1), "2-4": (2, 4), "5-9": (5, 9), "10+": (10, np.inf)}
HEAD_SHARE = 0.8  # of the kept training events: the most popular items that make it are the head, the others the tail
ROWS_PER_CALL = 512

# Sessions before the targets (item ids and flags, oldest event first, any lengths), the targets' item ids, the sessions'
# users and items of these users' earlier sessions → <int64>[n] ranks: 1 = best, 0 = the model does not know the item,
# -1 = a score is NaN.
RankFn = Callable[
    [Sequence[Sequence[str]], Sequence[Sequence[bool]], Sequence[str], Sequence[str], Sequence[Sequence[str]]],
    np.ndarray,
]
KeyT = TypeVar("KeyT", bound=Hashable)
ValueT = TypeVar("ValueT")


class Figure(pydantic.BaseModel):
    """A metric with its 95 % interval; null where there are no targets (value) or fewer than two sessions (interval)."""

    value: float | None
    low: float | None
    high: float | None
    targets: int


class Difference(pydantic.BaseModel):
    """Model minus another ranker on the same targets, with its paired 95 % interval."""

    difference: float | None
    low: float | None
    high: float | None


class Counts(pydantic.BaseModel):
    """What was judged, and what could not be."""

    sessions: int
    sessions_with_targets: int
    targets: int  # kept events, for HR, MRR and NDCG
    fp_targets: int  # abandoned events, for FP-HR
    unseen_targets: int  # kept events after another, dropped as the catalogue does not have their item
    unseen_share: float  # of kept events after another
    targets_without_input: int  # … dropped as no kept event before them is of the catalogue
    catalogue_items: int


class Report(pydantic.BaseModel):
    """`metrics.json`. `Report.model_validate_json` reads it back.

    Metrics are micro-averages over targets, but for macro_mrr@20, the mean over sessions of the session's mean.
    """

    counts: Counts
    metrics: dict[str, dict[str, Figure]]  # ranker → metric; the model first
    differences: dict[str, dict[str, Difference]]  # the model minus this ranker → metric
    slices: dict[str, dict[str, dict[str, Figure]]]  # of the model: session_length, target_popularity → slice → metric

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"


def evaluate(
    rank_fn: RankFn,
    test_sessions: Iterable[Session],
    train_sessions: Iterable[Session],
    catalogue: Sequence[str],
    resamples: int,
    seed: int,
    extra_rankers: Mapping[str, Ranker] | None = None,
    last_blessed_rank_fn: RankFn | None = None,
) -> Report:
    """Ranks every target by the model, the baselines and whatever else is given, and compares.

    Args:
        rank_fn: the model to judge; must know all items of the catalogue.
        test_sessions: raw sessions with their whole history, items that training never saw included.
        train_sessions: what the baselines learn from.
        catalogue: the model's item ids, each once; baselines score just these.
        resamples: of the sessions, for the intervals.
        seed: of the resamples.
        extra_rankers: more rankers over the catalogue by name, such as the Bayes-optimal one of a simulated log.
        last_blessed_rank_fn: the model that is served now; a target that it does not know is its miss.

    Raises:
        InputError: an item twice in the catalogue, or no target to judge.
        RunError: a NaN score, or a model that does not know the catalogue.
    """
    targets = list_targets(test_sessions, catalogue)
    model_ranks = _rank_by_model("the", rank_fn, targets)
    if (model_ranks == 0).any():
        unknown = catalogue[targets.column[np.argmax(model_ranks == 0)]]
        raise RunError(
            f"the model does not know item {unknown!r} of the catalogue; give the catalogue it was trained on"
        )
    values = {MODEL: metric_matrix(model_ranks)}
    if last_blessed_rank_fn is not None:
        values[LAST_BLESSED] = metric_matrix(_rank_by_model("the last blessed", last_blessed_rank_fn, targets))
    learned = baselines.fit(train_sessions, catalogue)
    for name, ranker in {**learned.rankers, **(extra_rankers or {})}.items():
        values[name] = metric_matrix(_rank_by_scores(name, ranker, targets, len(catalogue)))

    def figures(values: dict[KeyT, np.ndarray], weight: np.ndarray) -> dict[KeyT, Figure]:
        return _figures(values, weight, targets, resamples, seed)

    is_kept = ~targets.is_false_positive
    compared = [name for name in (LAST_BLESSED, "popularity", "markov") if name in values]
    micro = figures(_flat(values), is_kept)
    fp_micro = figures({(name, f"fp_hr@{k}"): v[f"hr@{k}"] for name, v in values.items() for k in CUTOFFS}, ~is_kept)
    targets_of_session = np.bincount(targets.session[is_kept], minlength=len(targets.sessions))
    macro = figures(
        {(name, "macro_mrr@20"): v["mrr@20"] for name, v in values.items()},
        is_kept / np.maximum(targets_of_session, 1)[targets.session],
    )
    paired = figures(
        {
            (name, metric): values[MODEL][metric] - values[name][metric]
            for name in compared
            for metric in COMPARED_METRICS
        },
        is_kept,
    )
    fp_values = {f"fp_hr@{k}": values[MODEL][f"hr@{k}"] for k in CUTOFFS}
    return Report(
        counts=_counts(targets, len(catalogue)),
        metrics=_nested({**micro, **fp_micro, **macro}, values),
        differences=_nested(
            {key: Difference(difference=d.value, low=d.low, high=d.high) for key, d in paired.items()}, compared
        ),
        slices={
            kind: {
                name: {**figures(values[MODEL], is_kept & chosen), **figures(fp_values, ~is_kept & chosen)}
                for name, chosen in slices.items()
            }
            for kind, slices in _slices(targets, learned.item_counts).items()
        },
    )


def format_table(report: Report) -> str:
    """The report's main figures, one ranker a line, ± half the interval's width; then the number of targets."""
    rows = [["", *TABLE_METRICS]]
    for name, metrics in report.metrics.items():
        rows.append([name, *(_format_figure(metrics[metric]) for metric in TABLE_METRICS)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    counts = report.counts
    lines.append(
        f"{counts.targets:,} targets and {counts.fp_targets:,} abandoned items of {counts.sessions_with_targets:,} test "
        f"sessions, ranked among {counts.catalogue_items:,} items; {counts.unseen_share:.1%} of the targets dropped: "
        "training never saw them"
    )
    return "\n".join(lines)


def _format_figure(figure: Figure) -> str:
    if figure.value is None:
        return "–"
    if figure.low is None or figure.high is None:
        return f"{figure.value:.4f}"
    return f"{figure.value:.4f} ± {(figure.high - figure.low) / 2:.4f}"


def _rank_by_model(name: str, rank_fn: RankFn, targets: Targets) -> np.ndarray:
    """<int64>[n] ranks. Targets of similar history length share a call, which pads little; the order is fixed."""
    order = np.argsort(targets.position, kind="stable")
    ranks = np.empty(len(order), np.int64)
    with Progress(len(order), f"ranking by {name} model", "targets") as progress:
        for start in range(0, len(order), ROWS_PER_CALL):
            rows = order[start : start + ROWS_PER_CALL]
            pairs = [(targets.sessions[targets.session[row]], targets.position[row]) for row in rows]
            ranks[rows] = rank_fn(
                [session.item_id[:position] for session, position in pairs],
                [session.is_false_positive[:position] for session, position in pairs],
                [session.item_id[position] for session, position in pairs],
                [session.user_id for session, _ in pairs],
                [session.history_item_id for session, _ in pairs],
            )
            progress.advance(len(rows))
    return ranks


def _rank_by_scores(name: str, ranker: Ranker, targets: Targets, n_items: int) -> np.ndarray:
    """<int64>[n] ranks, one session's scores in memory at a time."""
    ranks = np.empty(len(targets.session), np.int64)
    for rows in _runs(targets.session):
        session = targets.sessions[targets.session[rows.start]]
        scores = ranker.session_scores(session.item_id, session.is_false_positive)
        if scores.shape != (len(session.item_id), n_items):
            raise RunError(
                f"{name} gave scores of shape {scores.shape}, not [events, items of the catalogue] = "
                f"{(len(session.item_id), n_items)}"
            )
        ranks[rows] = ranks_from_scores(scores[targets.position[rows]], targets.column[rows])
    return ranks


def _runs(values: np.ndarray) -> Iterator[slice]:
    """Slices of equal neighbours."""
    bounds = [0, *(np.flatnonzero(np.diff(values)) + 1), len(values)]
    return (slice(start, stop) for start, stop in itertools.pairwise(bounds))


def _figures(
    values: dict[KeyT, np.ndarray], weight: np.ndarray, targets: Targets, resamples: int, seed: int
) -> dict[KeyT, Figure]:
    """Weighted means over targets (<number>[n] each) with intervals over sessions; weight 0 leaves a target out."""
    n_sessions = len(targets.sessions)
    session_sum = scipy.sparse.csr_matrix(
        (weight.astype(float), (targets.session, np.arange(len(weight)))), shape=(n_sessions, len(weight))
    )
    totals = session_sum @ np.stack(list(values.values()), axis=1)
    weights = np.asarray(session_sum.sum(axis=1)).ravel()
    intervals = ratio_intervals(totals, weights, resamples, seed)
    n_targets = int(np.count_nonzero(weight))
    return {
        key: Figure(value=value, low=low, high=high, targets=n_targets)
        for key, value, low, high in zip(values, *(map(_or_none, bounds) for bounds in intervals), strict=True)
    }


def _or_none(number: float) -> float | None:
    return None if np.isnan(number) else float(number)


def _slices(targets: Targets, item_counts: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Kind of slice → name → <bool>[n] the targets in it."""
    by_popularity = np.argsort(-item_counts, kind="stable")
    share_before = (np.cumsum(item_counts[by_popularity]) - item_counts[by_popularity]) / max(item_counts.sum(), 1)
    is_head_item = np.zeros(len(item_counts), bool)
    is_head_item[by_popularity] = share_before < HEAD_SHARE
    is_head = is_head_item[targets.column]
    return {
        "session_length": {
            name: (targets.n_inputs >= shortest) & (targets.n_inputs <= longest)
            for name, (shortest, longest) in LENGTH_SLICES.items()
        },
        "target_popularity": {"head": is_head, "tail": ~is_head},
    }


def _counts(targets: Targets, n_items: int) -> Counts:
    return Counts(
        sessions=len(targets.sessions),
        sessions_with_targets=len(np.unique(targets.session)),
        targets=int(np.count_nonzero(~targets.is_false_positive)),
        fp_targets=int(np.count_nonzero(targets.is_false_positive)),
        unseen_targets=targets.unseen,
        unseen_share=targets.unseen / targets.candidates,
        targets_without_input=targets.without_input,
        catalogue_items=n_items,
    )


def _flat(values: dict[str, dict[str, np.ndarray]]) -> dict[tuple[str, str], np.ndarray]:
    return {(name, metric): v for name, metrics in values.items() for metric, v in metrics.items()}


def _nested(flat: Mapping[tuple[str, str], ValueT], names: Iterable[str]) -> dict[str, dict[str, ValueT]]:
    return {name: {metric: v for (of_name, metric), v in flat.items() if of_name == name} for name in names}
