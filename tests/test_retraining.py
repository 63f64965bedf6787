"""Nights as cron has them: a log that grows, a model that starts from the last one, and data that has moved."""

import contextlib
import csv
import json
import re
import sqlite3
import subprocess

import pytest
from test_pipeline import CONFIG, command, run_cli, versions, write_config

from fp_tfrs.data.drift import SUMMARY_FILE

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def nights(tmp_path_factory):
    """A folder with its configuration and all rows of a log, of which each night knows more."""
    folder = tmp_path_factory.mktemp("nights")
    all_rows = folder / "all.csv"
    assert run_cli("simulate", "--out", all_rows, "--sessions", 3000, "--items", 120).returncode == 0
    source = {"format": "csv", "files": [str(folder / "log.csv")]}
    training = {"max_epochs": 4, "learning_rate": 0.01, "warm_start": "latest"}
    write_config(folder, CONFIG | {"data": CONFIG["data"] | {"source": source}, "training": training})
    header, *rows = csv.reader(all_rows.read_text().splitlines())
    return folder, header, rows


def write_log(nights, share, abandon_every=0):
    folder, header, rows = nights
    known = [list(row) for row in rows[: int(share * len(rows))]]
    for row in known[::abandon_every] if abandon_every else ():
        row[header.index("dwell_s")] = "1.5"
    with open(folder / "log.csv", "w", newline="") as file:
        csv.writer(file).writerows([header, *known])


def arguments(folder, *more):
    return ["run", "--config", folder / "config.yaml", "--root", folder / "root", *more]


def test_three_nights(nights, record_figure):
    folder = nights[0]
    write_log(nights, 0.8)
    first = run_cli(*arguments(folder))
    assert first.returncode == 0, first.stderr
    assert "no warm start: nothing has been pushed" in first.stderr
    (one,) = versions(folder / "root")
    assert (folder / "root" / "serving" / "tiny" / str(one) / SUMMARY_FILE).is_file()

    write_log(nights, 0.9)
    with subprocess.Popen(command(*arguments(folder, "--since", "50d")), stderr=subprocess.PIPE, text=True) as second:
        for line in second.stderr:  # until it is at work
            if line.startswith("[1/"):
                break
        other = run_cli(*arguments(folder))
        said = second.stderr.read()
    assert second.returncode == 0, said
    assert (other.returncode, "another run is working in --root" in other.stderr) == (2, True)
    with contextlib.closing(sqlite3.connect(folder / "root" / "metadata.sqlite")) as database:
        found = database.execute("pragma integrity_check").fetchall()
    record_figure("two runs on one root", f"the second is refused; database {found[0][0]}", "refused or waits; intact")
    assert found == [("ok",)]
    assert re.search(
        r"warm start from \S*/serving/tiny/\d+: 1\d\d of 1\d\d items carried over, (\d+) of \1 weights", said
    )
    assert "ranking by the last blessed model" in said
    manifests = [
        json.loads(p.read_text()) for p in (folder / "root").glob("artifacts/SessionExampleGen/*/*/_MANIFEST.json")
    ]
    whole, newer = sorted(manifests, key=lambda manifest: manifest["since_s"] or 0)
    assert whole["older_rows"] == 0 < newer["older_rows"]
    assert newer["splits"]["train"]["first_start_s"] >= newer["since_s"] > whole["splits"]["train"]["first_start_s"]
    served = versions(folder / "root")

    write_log(nights, 1.0, abandon_every=2)
    third = run_cli(*arguments(folder))
    assert third.returncode == 2
    assert re.search(
        r"is_false_positive has drifted .* 0\.3\d\d, is above validation.drift.max_fp_share_change = 0.1", third.stderr
    )
    assert "Transform" not in third.stderr
    assert versions(folder / "root") == served
