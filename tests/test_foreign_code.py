"""No code that comes in data or a configuration is ever run, and no name in them leads out of where it belongs."""

import ast
import itertools
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from fp_tfrs.data import manifest
from fp_tfrs.datasets import raw_files
from fp_tfrs.errors import InputError, RunError
from fp_tfrs.experiments import prepared
from fp_tfrs.fingerprint import FIRST_PARTY

PROJECT = Path(__file__).parents[1]

# What runs code that it is given, or lets a name choose it: module or function → why none of ours needs it.
FORBIDDEN_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "shelve",
    "torch",
    "tarfile",
    "zipfile",
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "execfile"}  # called by name, unlike `model.compile`
FORBIDDEN_ATTRIBUTES = {
    *("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.UnsafeLoader", "yaml.FullLoader"),
    *("os.system", "os.popen", "tempfile.mktemp", "pd.read_pickle", "pd.eval", "np.fromfile"),
    *("tf.keras.models.load_model", "tf.py_function", "tf.numpy_function", "jinja2.Template"),
}
FORBIDDEN_METHODS = {"from_string", "extractall", "read_pickle", "to_pickle", "enable_unsafe_deserialization"}
FORBIDDEN_KEYWORDS = {"allow_pickle", "shell", "unsafe"}  # unless they are False
# The places that may, and what keeps them from doing so with what is foreign.
ALLOWED = {
    ("fp_tfrs/storage.py", "zipfile"),  # for the name of an error of NumPy's
    ("fp_tfrs/data/packing.py", "marshal"),  # what a run's own workers hand to each other; holds plain values only
    ("fp_tfrs/datasets/prepared.py", "importlib.import_module"),  # a name that is one of datasets.NAMES
    ("pipeline/container.py", "importlib.import_module"),  # one name, which is in the source
    ("fp_tfrs/parquet.py", "pq.ParquetFile"),  # after pickles in schemas are refused
}
ONCE = {"marshal", "importlib.import_module", "pq.ParquetFile", "pq.read_table", "pq.read_metadata", "pq.read_schema"}


def forbidden_in(file: Path) -> set[str]:
    """What a module uses of these."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names} & (FORBIDDEN_MODULES | ONCE)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module.split(".")[0]} & (FORBIDDEN_MODULES | ONCE)
        elif isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            found |= {dotted} & (FORBIDDEN_ATTRIBUTES | ONCE)
            found |= {node.attr} & FORBIDDEN_METHODS
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                found |= {node.func.id} & FORBIDDEN_CALLS
            found |= {
                keyword.arg
                for keyword in node.keywords
                if keyword.arg in FORBIDDEN_KEYWORDS and ast.unparse(keyword.value) != "False"
            }
    return found


def test_nothing_of_ours_runs_what_it_reads():
    files = itertools.chain(*((PROJECT / package).rglob("*.py") for package in FIRST_PARTY))
    found = {(str(file.relative_to(PROJECT)), name) for file in files for name in forbidden_in(file)}
    assert found == ALLOWED


def test_the_search_finds_what_it_is_for(tmp_path):
    lines = ["import pickle", "from dill import loads", "eval('1')", "yaml.load(x)", "np.load(x, allow_pickle=True)",
             "run(x, shell=a)", "archive.extractall(x)", "np.load(x, allow_pickle=False)", "model.compile(x)"]  # fmt: skip
    (tmp_path / "a.py").write_text("\n".join(lines))
    assert forbidden_in(tmp_path / "a.py") == {
        "pickle", "dill", "eval", "yaml.load", "allow_pickle", "shell", "extractall"
    }  # fmt: skip


class Trap:
    """Makes a folder `sprung` when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("sprung",)


def write_trap(path: Path) -> None:
    """A Parquet file whose schema says that a column's type is to be unpickled."""
    names = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle.dumps(Trap())}
    schema = pa.schema([pa.field("item_id", pa.int64(), metadata=names), pa.field("session_id", pa.string())])
    pq.write_table(pa.table([pa.array([1]), pa.array(["s"])], schema=schema), path)


READ = """
from fp_tfrs.config import SourceConfig
from fp_tfrs.data import sources
from fp_tfrs.serving import session_files
def log(path):
    return list(sources.read_rows(path, SourceConfig(format="parquet", files=(path,))))
def sessions(path):
    return [row for part in session_files.divide([path], 9) for row in session_files.read_part(part)]
for read in (log, sessions):
    try:
        read("trap.parquet")
    except ValueError as error:
        print(error)
"""


def test_a_pickle_in_a_parquet_schema_is_not_loaded(tmp_path):
    write_trap(tmp_path / "trap.parquet")
    run = subprocess.run(  # where nothing else has taken away what loads them
        [sys.executable, "-c", READ], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
    )  # fmt: skip
    assert run.stdout.count("trap.parquet can't be read") == 2
    assert run.stdout.count("its schema holds a pickled Python object, which is not loaded") == 2
    assert os.listdir(tmp_path) == ["trap.parquet"]
    with pytest.raises(InputError, match=r"trap\.parquet can't be read as parquet"):
        raw_files.table_parts(str(tmp_path / "trap.parquet"))


def test_a_pickle_in_an_npz_file_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("ranks.npz", ranks=np.array([Trap()], dtype=object))
    with pytest.raises(RunError, match=r"ranks\.npz is unreadable"):
        prepared.load_arrays("ranks.npz")
    assert os.listdir(tmp_path) == ["ranks.npz"]
    np.load("ranks.npz", allow_pickle=True)["ranks"]  # it is a trap
    assert sorted(os.listdir(tmp_path)) == ["ranks.npz", "sprung"]


@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "/etc/passwd", "Split-test/../../x.gz", "Split-test/sessions-1-of-1.gz\n"]
)
def test_a_manifest_lists_no_file_outside_of_its_folder(tmp_path, path):
    shard = {"split": "test", "path": path, "records": 1, "n_bytes": 1, "sha256": ""}
    with pytest.raises(ValueError, match="path"):
        manifest.Shard.model_validate(shard)
    (tmp_path / manifest.FILE_NAME).write_text(json.dumps({"shards": [shard]}))
    with pytest.raises(InputError, match="is not a manifest of this version"):
        manifest.read(str(tmp_path))


def test_containers_do_not_run_as_root():
    *_, last = (PROJECT / "deploy" / "Dockerfile").read_text().split("\nFROM ")
    users = [line.split()[1] for line in last.splitlines() if line.startswith("USER ")]
    assert users and int(users[-1]) >= 1_000
    for file in sorted((PROJECT / "deploy").rglob("compose*.yaml")):
        for name, service in yaml.safe_load(file.read_text())["services"].items():
            if "image" in service:
                user, _, group = service["user"].partition(":")
                assert int(user) >= 1_000 and int(group) >= 1_000, f"{file}: {name}"
                assert service["security_opt"] == ["no-new-privileges:true"] and service["cap_drop"] == ["ALL"]
