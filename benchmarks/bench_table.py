"""Results of `bench.py` → one table in Markdown: each figure, what is asked of it, and what the machine allows at most.

Medians over rounds; a ratio is the median of the rounds' ratios, so that other work on the machine falls on both sides.
What no way of training by full softmax can do without are the products of logits and their gradients, 6·V·D floating-point
operations a target; a ranking needs a third of that. The machine's rate is the faster of the two sides' own, at those
products alone, in the same round. What TensorFlow's own operations let reach of it is what the tower and the loss do, each
alone with its gradients, if all else of a step took no time; it is asked for with whole epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any, NamedTuple

from benchmarks.peers import settings

Round = Mapping[str, Mapping[str, Mapping[str, Any]]]  # side → question → answer


class Row(NamedTuple):
    """A line: a figure, what was measured, what is asked, the machine's limit, and whether it is met; None = not asked."""

    figure: str
    measured: str
    asked: str = ""
    machine: str = ""
    is_met: bool | None = None


def describe(results: Mapping[str, Any]) -> str:
    """The table of all results that are there."""
    lines = ["| | measured | asked | the machine's limit | met |", "| --- | --- | --- | --- | --- |"]
    for row in rows(results):
        met = {True: "yes", False: "**no**", None: ""}[row.is_met]
        lines.append(f"| {row.figure} | {row.measured} | {row.asked} | {row.machine} | {met} |")
    return "\n".join(lines)


def rows(results: Mapping[str, Any]) -> Iterator[Row]:
    """The lines of all results, in their order."""
    for name, result in results.items():
        kind, _, rest = name.partition("/")
        if kind in settings.DATASETS:
            yield from cell_rows(kind, rest, result["arguments"]["share"], result["answer"])
        else:
            yield from _ROWS[kind](rest, result["answer"])


def cell_rows(dataset: str, tower: str, share: float, cell: Mapping[str, Any]) -> Iterator[Row]:
    """Training, ranking and loading of one of `compare.run_cell`."""
    rounds, facts = cell["rounds"], cell["facts"]
    flop = 6 * facts["full"]["n_items"] * settings.DIM
    what = "" if share == 1 else f", {share:.0%} of an epoch"
    name = f"{dataset}, {tower}"

    def rate(side: str, question: str) -> Callable[[Round], float]:
        return lambda each: each[side][question]["n_targets"] / each[side][question]["seconds"]

    def ratio(side: str, other: str, question: str) -> float:
        return median(rate(side, question)(each) / rate(other, question)(each) for each in rounds)

    def limit(each: Round) -> float:
        return max(each[side]["multiply"]["flop"] / each[side]["multiply"]["seconds"] for side in ("full", "recbole"))

    full, sampled, peer = (median(map(rate(side, "train"), rounds)) for side in ("full", "sampled", "recbole"))
    machine = median(map(limit, rounds))
    times = ratio("full", "recbole", "train")
    yield Row(
        f"{name}: full softmax, targets/s{what}",
        f"{full:,.0f} ÷ RecBole's {peer:,.0f} = {times:.2f}",
        "≥ 2",
        f"{machine / flop:,.0f} ({machine / 1e9:.0f} GFLOP/s)",
        times >= 2,
    )

    def of_machine(side: str, question: str) -> float:
        return median(flop * rate(side, question)(each) / limit(each) for each in rounds)

    ours, theirs = of_machine("full", "train"), of_machine("recbole", "train")
    bare = f"; by tower and loss alone {of_machine('full', 'differentiate'):.0%}" if share == 1 else ""
    yield Row(
        f"{name}: … of the rate of matrix products",
        f"{ours:.0%}; RecBole {theirs:.0%}",
        "≥ 50 %",
        f"100 %{bare}",
        ours >= 0.5,
    )
    times = ratio("sampled", "recbole", "train")
    is_asked = dataset == "diginetica"
    yield Row(
        f"{name}: sampled softmax, targets/s",
        f"{sampled:,.0f} ÷ RecBole's full {peer:,.0f} = {times:.1f}",
        "≥ 10" if is_asked else "",
        "",
        times >= 10 if is_asked else None,
    )
    times = ratio("full", "recbole", "evaluate")
    sessions = facts["full"]["n_valid_sessions"] / facts["full"]["n_valid_targets"]
    ours, theirs = (sessions * median(map(rate(side, "evaluate"), rounds)) for side in ("full", "recbole"))
    yield Row(
        f"{name}: ranking, sessions/s",
        f"{ours:,.0f} ÷ RecBole's {theirs:,.0f} = {times:.2f}",
        "≥ 2",
        f"{sessions * 3 * machine / flop:,.0f}",
        times >= 2,
    )
    for side, training in (("full", full), ("sampled", sampled)):
        loading = median(map(rate(side, "load"), rounds))
        times = median(rate(side, "load")(each) / rate(side, "train")(each) for each in rounds)
        yield Row(
            f"{name}: batches alone ÷ training, {side} softmax", f"{loading:,.0f} ÷ {training:,.0f} = {times:.1f}", "≥ 5",
            "", times >= 5,
        )  # fmt: skip
    apart = ", ".join(f"{side} {cell['warm_up'][side]['train']['seconds']:.0f}" for side in cell["warm_up"])
    memory = ", ".join(f"{side} {rounds[-1][side]['multiply']['peak_mib']:,}" for side in cell["warm_up"])
    yield Row(f"{name}: first round with tracing, s; most memory, MiB", f"{apart}; {memory}")


def _equal_rows(tower: str, found: Mapping[str, Any]) -> Iterator[Row]:
    full, peer = found["full"], found["recbole"]
    best = max(epoch["mrr"] for epoch in full)
    name = f"diginetica, {tower}"
    for n_negatives, epochs in found["sampled"].items():
        mrr = max(epoch["mrr"] for epoch in epochs)
        yield Row(
            f"{name}: validation MRR@20 by sampled softmax, {int(n_negatives):,} negatives",
            f"{mrr:.4f} after {len(epochs)} epochs, full {best:.4f} after {len(full)}: {mrr / best - 1:+.1%}",
            f"≥ {settings.EQUAL - 1:+.1%}",
            "",
            mrr >= settings.EQUAL * best,
        )
    alike = "; ".join(f"{ours['mrr']:.4f}, {epoch['mrr']:.4f}" for ours, epoch in zip(full, peer, strict=False))
    yield Row(f"{name}: … by full softmax after the same epochs, ours and RecBole's", alike)


def _start_up_rows(_: str, found: Mapping[str, Any]) -> Iterator[Row]:
    import_s, help_s = median(found["import_s"]), median(found["help_s"])
    with_what = "with TensorFlow" if found["imports_tensorflow"] else "without TensorFlow"
    is_met = import_s <= 0.3 and not found["imports_tensorflow"]
    yield Row("import fp_tfrs, s", f"{import_s:.4f}, {with_what}", "≤ 0.3, without TensorFlow", "", is_met)
    yield Row("fp-tfrs --help, s", f"{help_s:.2f}", "≤ 0.5", "", help_s <= 0.5)


def _growth_rows(_: str, found: Mapping[str, list[float]]) -> Iterator[Row]:
    small, *_, large = found
    times = median(b / a for a, b in zip(found[small], found[large], strict=True))
    steps = ", ".join(f"{int(items):,} items {1e3 * median(seconds):.1f}" for items, seconds in found.items())
    yield Row("step with sampled softmax, ms", f"{steps}: × {times:.2f}", "× ≤ 1.3", "× 1", times <= 1.3)


def _memory_rows(_: str, found: Mapping[str, Any]) -> Iterator[Row]:
    speed = found["n_sessions"] / found["seconds"]
    measured = f"{found['extra_mib']:,} ({speed:.0f} sessions/s)"
    yield Row("ranking 1,000,000 items, extra MiB", measured, "≤ 1,024", "", found["extra_mib"] <= 1024)


def _quickstart_rows(_: str, seconds: list[float]) -> Iterator[Row]:
    yield Row("make run, nothing to install, s", f"{median(seconds):.0f}", "≤ 240", "", median(seconds) <= 240)


def _preprocessing_rows(_: str, found: Mapping[str, Any]) -> Iterator[Row]:
    n_clicks, rounds = found["n_clicks"], found["rounds"]
    floor = {name: median(each["floor"][name] for each in rounds) for name in rounds[0]["floor"]}
    for way in (name.removeprefix("whole, ") for name in rounds[0] if name.startswith("whole")):
        whole = [each[f"whole, {way}"] for each in rounds]
        seconds = median(each["seconds"] for each in whole)
        memory = median(sum(each["memory_mib"]) for each in whole)
        times = median(
            _bend(n_clicks, {size: each[f"{size}, {way}"]["seconds"] for size in n_clicks}) for each in rounds
        )
        name = f"preprocessing {n_clicks['whole']:,} clicks, {way}"
        beam = ", ".join(f"{stage} {value:.0f}" for stage, value in floor.items())
        yield Row(f"{name}: s", f"{seconds:.0f}", "≤ 150", f"Beam alone: {beam}", seconds <= 150)
        yield Row(f"{name}: MiB of all processes", f"{memory:,.0f}", "≤ 3,072", "", memory <= 3072)
        figure = f"{name}: a click beyond {n_clicks['tenth']:,} ÷ one before"
        yield Row(figure, f"{times:.2f}", "≤ 1.15", "1", times <= 1.15)


def _bend(n_clicks: Mapping[str, int], seconds: Mapping[str, float]) -> float:
    """Time of each click that the whole has beyond a tenth, by that which a tenth has beyond a hundredth: 1 = a line.

    Starting Beam's processes, which takes as long for all sizes, is in neither.
    """

    def slope(large: str, small: str) -> float:
        return (seconds[large] - seconds[small]) / (n_clicks[large] - n_clicks[small])

    return slope("whole", "tenth") / slope("tenth", "hundredth")


_ROWS: dict[str, Callable[[str, Any], Iterator[Row]]] = {
    "start-up": _start_up_rows,
    "growth": _growth_rows,
    "memory": _memory_rows,
    "quickstart": _quickstart_rows,
    "preprocessing": _preprocessing_rows,
    "until-equal": _equal_rows,
}
