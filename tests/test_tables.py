"""Tables of experiments: a golden one by hand, what is marked and why, and that both formats say the same."""

import dataclasses
import itertools
import json
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from experiment_results import make_results
from markdown_it import MarkdownIt

from fp_tfrs.data.sessions import Session
from fp_tfrs.evaluation.significance import holm
from fp_tfrs.evaluation.targets import list_targets
from fp_tfrs.experiments.comparison import COMPARED, PAPER_ORDER, Difference, Pair, compare
from fp_tfrs.experiments.layout import Entry, Table
from fp_tfrs.experiments.results import Baseline
from fp_tfrs.experiments.tables import (
    compact_table,
    difference_table,
    make_tables,
    verdict_table,
    wide_table,
    write_csv,
)
from fp_tfrs.learning.metrics import METRIC_NAMES, metric_matrix

# Two sessions: of a, i1 and i2 are targets; of b, i1 and, abandoned, i2.
SESSIONS = (
    Session("a", ("i0", "i1", "i2"), (False, False, False)),
    Session("b", ("i0", "i1", "i2"), (False, False, True)),
)
RANKS = {
    "vanilla": ([1, 4, 30, 10], [2, 5, 21, 40]),
    "fp_simple": ([1, 2, 20, 25], [1, 1, 10, 20]),
}
# By hand, in %: MRR of vanilla is (1 + 1/4 + 0) / 3 = 41.67 and (1/2 + 1/5 + 0) / 3 = 23.33.
GOLDEN = """\
| tower | method | HR@20 | MRR@20 | NDCG@20 | FP-HR@20 | ΔHR@20 |
| :-- | :-- | --: | --: | --: | --: | --: |
| narm | vanilla | <u>66.67</u> <small>± 0.00</small> | <u>32.50</u> <small>± 12.96</small> | \
<u>40.81</u> <small>± 9.73</small> | **50.00** <small>± 70.71</small> | <u>16.67</u> <small>± 70.71</small> |
| narm | fp_simple | **100.00** <small>± 0.00</small> | **60.83** <small>± 12.96</small> | \
**69.13** <small>± 10.15</small> | **50.00** <small>± 70.71</small> | **50.00** <small>± 70.71</small> |
| baseline | popularity | 100.00 | 100.00 | 100.00 | 100.00 | 0.00 |
"""


def golden_results():
    made = make_results(methods=tuple(RANKS), n_sessions=4)
    data_set = made.data_sets["clicks"]
    data_set = dataclasses.replace(
        data_set,
        targets=list_targets(SESSIONS, data_set.catalogue),
        baselines={"popularity": Baseline(np.ones(4, np.int64), {"set_hr@50": np.full(2, 0.5)})},
    )
    cells = [
        dataclasses.replace(
            result,
            runs=[
                dataclasses.replace(run, ranks=np.array(ranks))
                for run, ranks in zip(result.runs, RANKS[result.cell.method], strict=True)
            ],
        )
        for result in made.cells
    ]
    return dataclasses.replace(made, cells=cells, data_sets={"clicks": data_set})


@pytest.fixture(scope="module")
def results():
    """Two data sets and towers; stamp has not run fp_simple on the second, and one seed of fp_adametric."""
    made = make_results(
        towers=("narm", "stamp"),
        data_sets=("clicks", "views"),
        n_sessions=24,
        is_without=lambda cell: cell[:3] == ("views", "stamp", "fp_simple"),
        n_runs=lambda cell: 1 if cell[:3] == ("views", "stamp", "fp_adametric") else None,
    )
    experiment = made.experiment.model_copy(update={"resamples": 4000, "against": ("vanilla", "fp_simple")})
    return dataclasses.replace(made, experiment=experiment)


@pytest.fixture(scope="module")
def tables(results):
    return {table.title: table for table in make_tables(results)}


def entry_of(table, heads, column):
    columns = [(group, name) for group, names in table.groups for name in names]
    return dict(table.rows)[heads][columns.index(column)]


def test_golden_table_by_hand():
    tables = {table.title: table for table in make_tables(golden_results())}
    assert GOLDEN in tables["Main figures"].to_markdown()
    rows = dict(tables["clicks: differences"].rows)
    difference, relative, *_ = rows["narm", "fp_simple", "vanilla", "MRR@20"]
    assert (difference.text, relative.text) == ("+28.33", "+87.2 %")
    assert rows["narm", "fp_simple", "vanilla", "FP-HR@20"][0].text == "+0.00"


def test_an_experiment_may_have_its_own_columns():
    """Those of XDM's Table 1; fp_simple was judged before there were lists."""
    made = make_results(
        metrics=("hr@50", "mrr@50", "set_recall@50", "set_f1@50"), has_lists=lambda cell: cell.method != "fp_simple"
    )
    tables = {table.title: table for table in make_tables(made)}
    main, rows = tables["Main figures"], dict(tables["clicks: differences"].rows)
    assert main.groups == (("", ("HR@50", "MRR@50", "set R@50", "set F1@50")),)
    of = {result.cell.method: [run.list_values for run in result.runs] for result in made.cells}
    mean = {m: np.mean([lists["set_recall@50"] for lists in of[m]]) for m in ("vanilla", "fp_adametric")}
    for method, value in mean.items():
        assert entry_of(main, ("narm", method), ("", "set R@50")).text == f"{100 * value:.2f}"
    difference = rows["narm", "fp_adametric", "vanilla", "set R@50"][0].text
    assert float(difference.replace("−", "-")) == pytest.approx(
        100 * (mean["fp_adametric"] - mean["vanilla"]), abs=0.005
    )
    for heads in (("narm", "fp_simple"), ("baseline", "popularity")):
        assert entry_of(main, heads, ("", "set F1@50")) == Entry() != entry_of(main, heads, ("", "MRR@50"))
    assert rows["narm", "fp_simple", "vanilla", "set F1@50"][0].text == ""
    assert {heads[2] for heads, _ in tables["Does the papers' order hold?"].rows} == {"HR@50", "MRR@50"}
    assert entry_of(main, ("baseline", "s_knn"), ("", "set F1@50")).text == "25.00"
    notes = " ".join(main.notes)
    assert "FP-HR" not in notes and "Set figures are of one list a session" in notes


def test_marks_say_what_holm_leaves_of_the_differences_to_the_best_reference(results, tables):
    table = tables["Main figures"]
    tested, marks = {}, {}
    names = {
        "hr@20": "HR@20",
        "mrr@20": "MRR@20",
        "ndcg@20": "NDCG@20",
        "fp_hr@20": "FP-HR@20",
        "delta_hr@20": "ΔHR@20",
    }
    for data_set, tower, metric in itertools.product(("clicks", "views"), ("narm", "stamp"), names):
        texts = {m: entry_of(table, (tower, m), (data_set, names[metric])).text for m in ("vanilla", "fp_simple")}
        value = {method: float(text.replace("−", "-")) for method, text in texts.items() if text}
        best = (min if metric == "fp_hr@20" else max)(value, key=value.get)
        key = (data_set, tower, metric)
        tested[key] = compare(results, data_set, tower, "fp_adametric", best, [metric])[metric]
        marks[key] = entry_of(table, (tower, "fp_adametric"), (data_set, names[metric])).mark
    corrected = holm(np.array([found.p for found in tested.values()]))
    for (key, found), p in zip(tested.items(), corrected, strict=True):
        is_better = (found.difference > 0) != (key[2] == "fp_hr@20")
        assert marks[key] == ("" if p >= 0.05 else "†" if is_better else "‡"), key
    assert {*marks.values()} == {"†", "‡", ""}
    assert not any(entry_of(table, ("narm", "fp_simple"), ("clicks", name)).mark for name in ("HR@20", "MRR@20"))


def test_best_and_second_are_so_in_every_column(tables):
    for table in (table for table in tables.values() if table.heads == ("tower", "method")):
        columns = [name for _, names in table.groups for name in names]
        for tower, column in itertools.product(("narm", "stamp"), range(len(columns))):
            entries = [row[column] for (of, _), row in table.rows if of == tower and row[column].text]
            sign = -1 if columns[column].startswith("FP") else 1
            values = sorted({sign * float(entry.text.replace("−", "-")) for entry in entries}, reverse=True)
            for entry in entries:
                rank = values.index(sign * float(entry.text.replace("−", "-")))
                assert entry.place == {0: "best", 1: "second"}.get(rank, "")
        assert all(entry.place == entry.mark == "" for (of, _), row in table.rows for entry in row if of == "baseline")


def test_the_wide_table_has_means_and_deviations_over_seeds(results):
    table = wide_table(results, made_up_differences(results), "views")
    assert [name for _, names in table.groups for name in names] == [name.upper() for name in METRIC_NAMES]
    is_kept = ~results.data_sets["views"].targets.is_false_positive
    for result in (result for result in results.cells if result.cell.data_set == "views"):
        by_seed = [metric_matrix(run.ranks[is_kept])["ndcg@50"].mean() for run in result.runs]
        entry = entry_of(table, (result.cell.tower, result.cell.method), ("", "NDCG@50"))
        assert entry.text == f"{100 * np.mean(by_seed):.2f}"
        assert entry.small == (f"± {100 * np.std(by_seed, ddof=1):.2f}" if len(by_seed) > 1 else "")


def made_up_differences(results, low=-0.01, high=0.02, p=0.2):
    """Of all pairs, the same for all metrics."""
    made = Difference(0.2, 0.19, 0.01, low, high, 5.0, p)
    return {
        Pair(result.cell, other.cell): dict.fromkeys(COMPARED, made)
        for result, other in itertools.permutations(results.cells, 2)
        if result.cell._replace(method="") == other.cell._replace(method="")
    }


def test_what_has_not_run_is_said(tables):
    table = tables["Main figures"]
    assert entry_of(table, ("stamp", "fp_simple"), ("views", "HR@20")) == Entry()
    assert entry_of(table, ("stamp", "fp_simple"), ("clicks", "HR@20")).text
    notes = " ".join(table.notes)
    assert "Not run: views/stamp/fp_simple." in notes
    assert "Some seeds only: views/stamp/fp_adametric (1 of 2)." in notes
    assert "intervals cover sessions only and there is no deviation: views/stamp/fp_adametric." in notes
    assert "views/stamp" not in " ".join(tables["clicks: differences"].notes)
    assert make_tables(make_results(is_without=lambda cell: True)) == []


def test_p_values_of_a_table_are_corrected_for_their_number(results):
    for p, better, worse in ((0.01, 0, 0), (0.002, 16, 4)):  # of 20: 0.2 and 0.04
        table = compact_table(results, made_up_differences(results, p=p))
        marks = [entry.mark for _, entries in table.rows for entry in entries]
        assert (marks.count("†"), marks.count("‡")) == (better, worse)


def test_too_few_resamples_are_said(results):
    differences = made_up_differences(results)
    few = dataclasses.replace(results, experiment=results.experiment.model_copy(update={"resamples": 700}))
    for of, is_told in ((few, True), (results, False)):
        notes = " ".join(compact_table(of, differences).notes)
        assert ("none of 20 comparisons can be significant: set resamples to 2,000" in notes) == is_told


def test_where_nothing_is_compared_no_marks_are_explained():
    alone = make_results(methods=("vanilla",))
    notes = " ".join(compact_table(alone, {}).notes)
    assert "Means over seeds" in notes and "†" not in notes and "comparisons" not in notes


def test_a_verdict_for_every_claim_of_the_papers():
    made = make_results(methods=("vanilla", "fp_simple", "fp_metric", "fp_adametric"), towers=("narm", "stamp"))
    differences = made_up_differences(made, low=0.005)
    whole = lambda table, tower, metric: entry_of(table, ("clicks", tower, metric), ("", "whole order")).text
    table = verdict_table(made, differences)
    assert [name for name in table.groups[0][1][:-1]] == [
        " > ".join(claim) for claim in PAPER_ORDER if {*claim} <= {*made.experiment.methods}
    ]
    assert whole(table, "narm", "MRR@20") == "holds"

    def change(method, reference, **values):
        for pair, of_pair in differences.items():
            if pair.cell[:3] == ("clicks", "stamp", method) and pair.reference.method == reference:
                of_pair["hr@20"] = dataclasses.replace(of_pair["hr@20"], **values)

    change("fp_metric", "fp_simple", low=-0.001)
    table = verdict_table(made, differences)
    assert entry_of(table, ("clicks", "stamp", "HR@20"), ("", "fp_metric > fp_simple")) == Entry(
        "undecided", "+1.00 [−0.10, +2.00]"
    )
    assert whole(table, "stamp", "HR@20") == "undecided"
    assert [whole(table, *key) for key in (("narm", "HR@20"), ("stamp", "MRR@20"))] == ["holds", "holds"]
    change("fp_simple", "vanilla", low=-0.02, high=-0.01)
    table = verdict_table(made, differences)
    assert whole(table, "stamp", "HR@20") == "reversed"
    assert "holds in 3, reversed in 1 of 4 rows" in table.notes[0]
    assert verdict_table(make_results(methods=("vanilla", "skip_aware")), {}).rows == ()


def test_a_claim_holds_where_less_is_abandoned():
    made = make_results(methods=("vanilla", "fp_simple"), metrics=("fp_hr@20", "hr@20"))
    for low, high, expected in ((-0.02, -0.01, "holds"), (0.01, 0.02, "reversed"), (-0.01, 0.01, "undecided")):
        differences = made_up_differences(made)
        for of_pair in differences.values():
            of_pair["fp_hr@20"] = dataclasses.replace(of_pair["fp_hr@20"], low=low, high=high)
        table = verdict_table(made, differences)
        assert entry_of(table, ("clicks", "narm", "FP-HR@20"), ("", "whole order")).text == expected


def test_cells_of_a_sweep_stand_by_their_values():
    made = make_results(methods=("fp_simple", "fp_metric"), sweep={"model.loss.margin": (0.5, 1.0)})
    tables = {table.title: table for table in make_tables(made)}
    methods = [heads[1] for heads, _ in tables["Main figures"].rows if heads[0] == "narm"]
    assert methods == ["fp_simple margin=0.5", "fp_simple margin=1.0", "fp_metric margin=0.5", "fp_metric margin=1.0"]
    assert ("narm", "fp_metric margin=1.0", "fp_simple", "HR@20") in dict(tables["clicks: differences"].rows)
    assert ("clicks", "narm margin=0.5", "MRR@20") in dict(tables["Does the papers' order hold?"].rows)


def test_cells_are_told_apart_by_swept_lists_and_sections(tmp_path):
    values = {"training.length_buckets": ([], [10, 20]), "model.next_item": ({"kind": "full_softmax"},)}
    made = make_results(methods=("fp_simple", "fp_metric"), sweep=values)
    tables = {table.title: table for table in make_tables(made)}
    assert ("narm", "fp_metric length_buckets=[10, 20]", "fp_simple", "HR@20") in dict(
        tables["clicks: differences"].rows
    )
    write_csv(made, str(tmp_path / "a.csv"))
    found = pd.read_csv(tmp_path / "a.csv", keep_default_na=False)
    assert [*found[found["seed"] == "1"]["value"]] == ["[]", "[10, 20]", '{"kind": "full_softmax"}'] * 2


def test_both_formats_say_the_same_and_names_cannot_break_them(tables):
    odd = Table(
        "A <b>title</b> | of *stars* & [links](x)",
        ("what_is `it`",),
        (("<g>|", ("a|b", "_c_")), ("", ("&amp;",))),
        ((("</td><script>",), (Entry("1", "[2, 3]", "best", "†"), Entry("**4**", "", "second"), Entry())),),
        ("p < 5 % <i>of</i> it~~all~~ \\ [a][b]",),
    )
    markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    for table in (odd, *tables.values()):
        fragment = ElementTree.fromstring(f"<div>{table.to_html()}</div>")
        shown = ElementTree.fromstring(f"<div>{markdown.render(table.to_markdown()).replace('<br>', '<br/>')}</div>")
        body = [["".join(cell.itertext()) for cell in row] for row in fragment.find("table/tbody")]
        assert body == [["".join(cell.itertext()) for cell in row] for row in shown.find("table/tbody")]
        assert body[0][: len(table.heads)] == list(table.rows[0][0])
        for tag in ("b", "u", "small"):
            in_markdown = {"b": "strong"}.get(tag, tag)
            assert [e.text for e in fragment.iter(tag)] == [e.text for e in shown.iter(in_markdown)]
        assert shown.find("h3").text == table.title
        assert [e.text for e in shown.findall("p")] == [e.text for e in fragment.findall("p")] == list(table.notes)
        assert {e.get("scope") for e in fragment.iter("th")} <= {"row", "col", "colgroup"}
        width = len(table.heads) + sum(len(names) for _, names in table.groups)
        assert {len(row) for row in body} == {width}
        head = list(fragment.find("table/thead"))
        assert sum(int(cell.get("colspan", 1)) for cell in head[0]) == width
    assert len(list(fragment.iter("script"))) == 0


def test_csv_has_every_run_and_baseline(results, tmp_path):
    path = tmp_path / "new" / "results.csv"
    write_csv(results, str(path))
    write_csv(results, str(path))
    assert [file.name for file in path.parent.iterdir()] == ["results.csv"]
    table = pd.read_csv(path)
    n_runs = sum(len(result.runs) for result in results.cells)
    assert len(table) == n_runs + 2 * 2
    assert table["data_set"].tolist() == sorted(table["data_set"])
    runs = table[table["seed"].notna()]
    assert list(zip(runs["data_set"], runs["tower"], runs["method"], runs["seed"], strict=True)) == [
        (*result.cell[:3], run.seed) for result in results.cells for run in result.runs
    ]
    baselines = table[table["seed"].isna()]
    assert baselines[["tower", "settings", "best_epoch", "val_mrr@20"]].isna().to_numpy().all()
    assert baselines["method"].tolist() == ["popularity", "s_knn"] * 2

    last, targets = results.cells[-1], results.data_sets["views"].targets
    row, run = {name: runs[name].iloc[-1] for name in runs}, last.runs[-1]
    hit = run.ranks <= 20
    kept, abandoned = hit[~targets.is_false_positive].mean(), hit[targets.is_false_positive].mean()
    assert row["delta_hr@20"] == pytest.approx(kept - abandoned, rel=1e-5)
    assert row["fp_targets"] == targets.is_false_positive.sum()
    assert row["targets"] + row["fp_targets"] == len(targets.is_false_positive)
    assert json.loads(row["settings"]) == {"training.learning_rate": 0.003}  # better on validation
    assert row["val_mrr@20"] == pytest.approx(run.history[run.best_epoch - 1]["val_mrr@20"], rel=1e-5)
    text = path.read_text().splitlines()[-1].split(",")
    assert max(len(number.strip("-0.").replace(".", "")) for number in text[10:]) == 6


def test_the_same_results_make_the_same_tables(results, tables):
    assert [table.to_html() for table in make_tables(results)] == [table.to_html() for table in tables.values()]
    again = difference_table(results, made_up_differences(results), "clicks")
    assert {row[3].text for _, row in again.rows} == {"1.000"}
