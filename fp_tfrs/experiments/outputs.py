"""What is finished of an experiment → its folder of results: `results.csv`, `tables.md` and `report.html`."""

from __future__ import annotations

import os

from fp_tfrs import storage
from fp_tfrs.errors import RunError
from fp_tfrs.experiments.reading import read_results
from fp_tfrs.experiments.report import write_report
from fp_tfrs.experiments.runner import Workshop
from fp_tfrs.experiments.tables import make_tables, write_csv


def write_outputs(workshop: Workshop, folder: str) -> list[str]:
    """Writes the files, each by rename; returns what to tell of them.

    Raises:
        RunError: no run is finished.
    """
    results = read_results(workshop)
    if not results.cells:
        raise RunError(f"no run of {workshop.plan.path} is finished; start it without --report first")
    os.makedirs(folder, exist_ok=True)
    tables = make_tables(results)
    csv_path, tables_path, report_path = (
        os.path.join(folder, name) for name in ("results.csv", "tables.md", "report.html")
    )
    write_csv(results, csv_path)
    experiment = results.experiment
    parts = [f"# {experiment.title}", *(f"{name}: {text}" for name, text in results.environment.items())]
    parts += [table.to_markdown().strip() for table in tables]
    storage.write_text(tables_path, "\n\n".join(parts) + "\n")
    write_report(results, [(table.title, table.to_html()) for table in tables], report_path)
    lines = [tables[0].to_markdown(), f"rows: {csv_path}", f"tables: {tables_path}", f"report: {report_path}"]
    n_without = sum(not found.analysis for found in results.cells)
    if n_without:
        lines.append(
            f"without pictures of the model: {n_without} of {len(results.cells)} cells, which were trained in another root "
            f"than {workshop.root}; without --report, their first seeds are trained again for them"
        )
    return lines
