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
from fuzzed_data import EXPERIMENT, SMALL_RUN
from fuzzed_data_sets import read_prepared, write_prepared
from fuzzed_records import MANIFEST, RECORDS

from fp_tfrs import config_file
from fp_tfrs.config import RunConfig
from fp_tfrs.data import examples, manifest
from fp_tfrs.datasets import raw_files
from fp_tfrs.errors import InputError, RunError
from fp_tfrs.experiments import prepared
from fp_tfrs.experiments.plan import Experiment
from fp_tfrs.fingerprint import FIRST_PARTY

PROJECT = Path(__file__).parents[1]

# What runs code that it is given, or lets a name choose it: whole modules; names of modules, wherever below them they stand
# and whatever they are called here; built-in functions; methods of any object; and arguments.
FORBIDDEN_MODULES = {
    *(
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
        "marshal",
    ),
    *("runpy", "imp", "code", "codeop", "pty"),
}
FORBIDDEN_NAMES = {
    "yaml": {
        *("load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all", "Loader", "CLoader"),
        *("FullLoader", "CFullLoader", "UnsafeLoader", "CUnsafeLoader", "Constructor", "FullConstructor"),
        *("UnsafeConstructor", "YAMLObject"),
    },
    "os": {
        *("system", "popen", "execl", "execle", "execlp", "execlpe", "execv", "execve", "execvp", "execvpe"),
        *("spawnl", "spawnle", "spawnlp", "spawnlpe", "spawnv", "spawnve", "spawnvp", "spawnvpe", "posix_spawn"),
    },
    "subprocess": {"getoutput", "getstatusoutput"},
    "asyncio": {"create_subprocess_shell"},
    "builtins": {"eval", "exec", "compile", "__import__"},
    "importlib": {
        *("import_module", "reload", "__import__", "spec_from_file_location", "spec_from_loader", "module_from_spec"),
        *("SourceFileLoader", "SourcelessFileLoader", "ExtensionFileLoader"),
    },
    "tempfile": {"mktemp"},
    "pandas": {"read_pickle", "to_pickle", "eval", "HDFStore", "read_hdf"},
    "numpy": {"fromfile"},
    "pyarrow": {"ParquetFile", "read_table", "read_metadata", "read_schema", "ParquetDataset"},
    "tensorflow": {"load_model", "py_function", "numpy_function", "py_func"},
    "keras": {"load_model"},
    "tensorflow_datasets": {"builder_from_directory", "builder_from_directories", "builder_from_files", "from_config"},
    "jinja2": {"Template"},
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "execfile"}  # by their own names, unlike `model.compile`
FORBIDDEN_METHODS = {"from_string", "extractall", "read_pickle", "to_pickle", "enable_unsafe_deserialization"}
FORBIDDEN_KEYWORDS = {"allow_pickle", "shell", "unsafe"}  # unless they are False
# The places that may, and what keeps them from doing so with what is foreign.
ALLOWED = {
    ("fp_tfrs/storage.py", "zipfile"),  # for the name of an error of NumPy's
    ("fp_tfrs/data/packing.py", "marshal"),  # what a run's own workers hand to each other; holds plain values only
    ("fp_tfrs/datasets/prepared.py", "importlib.import_module"),  # a name that is one of datasets.NAMES
    ("pipeline/container.py", "importlib.import_module"),  # one name, which is in the source
    ("pipeline/container.py", "runpy"),  # likewise
    ("fp_tfrs/parquet.py", "pyarrow.ParquetFile"),  # after pickles in schemas are refused
}


def imported_in(tree: ast.AST) -> dict[str, str]:
    """What the names that a module imports stand for, dotted."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                names[name.asname or name.name.split(".")[0]] = name.name if name.asname else name.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.update({name.asname or name.name: f"{node.module}.{name.name}" for name in node.names})
    return names


def dotted_name(node: ast.AST, imported: dict[str, str]) -> str:
    """What a name or an attribute stands for, also one by `getattr`; "" for another expression."""
    if isinstance(node, ast.Name):
        return imported.get(node.id, "")
    if isinstance(node, ast.Attribute):
        owner = dotted_name(node.value, imported)
        return f"{owner}.{node.attr}" if owner else ""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and len(node.args) > 1:
        owner, attribute = dotted_name(node.args[0], imported), node.args[1]
        return f"{owner}.{attribute.value if isinstance(attribute, ast.Constant) else '*'}" if owner else ""
    return ""


def forbidden_in(file: Path) -> set[str]:
    """What a module uses of these: a module's name, `module.name`, or the name of what is no module's."""
    tree = ast.parse(file.read_text("utf-8"))
    imported, found = imported_in(tree), set()
    modules = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    dotted = {*modules, *imported.values(), *(dotted_name(node, imported) for node in ast.walk(tree))}
    for module, *_, name in (name.split(".") for name in dotted if "." in name):
        if name in FORBIDDEN_NAMES.get(module, ()) or (
            name == "*" and module in {*FORBIDDEN_NAMES, *FORBIDDEN_MODULES}
        ):
            found.add(f"{module}.{name}")
    found |= {name.split(".")[0] for name in dotted} & FORBIDDEN_MODULES
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found |= {node.id} & FORBIDDEN_CALLS
        elif isinstance(node, ast.Attribute):
            found |= {node.attr} & FORBIDDEN_METHODS
        elif isinstance(node, ast.Call):
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


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("import pickle", "pickle"),
        ("from dill import loads", "dill"),
        ("eval('1')", "eval"),
        ("run = eval", "eval"),
        ("import yaml\nyaml.load(x)", "yaml.load"),
        ("import yaml as y\ny.load(x)", "yaml.load"),
        ("from yaml import unsafe_load", "yaml.unsafe_load"),
        ("from yaml import unsafe_load as safe_load", "yaml.unsafe_load"),
        ("from yaml.loader import UnsafeLoader", "yaml.UnsafeLoader"),
        ("from yaml import loader\nloader.UnsafeLoader(x)", "yaml.UnsafeLoader"),
        ("from os import system", "os.system"),
        ("import os as o\nrun = o.system", "os.system"),
        ("import os\ngetattr(os, 'system')(x)", "os.system"),
        ("import os\ngetattr(os, x)(y)", "os.*"),
        ("from os import *", "os.*"),
        ("def f():\n    from builtins import exec as run", "builtins.exec"),
        ("from importlib.util import module_from_spec", "importlib.module_from_spec"),
        ("from importlib import import_module as load", "importlib.import_module"),
        ("import numpy as n\nn.fromfile(x)", "numpy.fromfile"),
        ("import tensorflow as tf\ntf.keras.models.load_model(x)", "tensorflow.load_model"),
        ("from pyarrow import parquet\nparquet.read_table(x)", "pyarrow.read_table"),
        (
            "import tensorflow_datasets as tfds\ntfds.builder_from_directory(x)",
            "tensorflow_datasets.builder_from_directory",
        ),
        ("np.load(x, allow_pickle=True)", "allow_pickle"),
        ("run(x, shell=a)", "shell"),
        ("archive.extractall(x)", "extractall"),
        ("import yaml, os\nnp.load(x, allow_pickle=False)\nmodel.compile(x)\nyaml.safe_load(os.name)", None),
        ("import re\nre.compile(x)\nfrom tensorflow.saved_model import load", None),
    ],
)
def test_the_search_finds_what_it_is_for(tmp_path, lines, found):
    (tmp_path / "a.py").write_text(lines)
    assert forbidden_in(tmp_path / "a.py") == ({found} if found else set())


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


MARK = """from pathlib import Path
import tensorflow_datasets as tfds
Path(__file__).with_name("sprung").mkdir()
class Text(tfds.features.Text): pass
"""


@pytest.mark.parametrize("named", ["features", "feature", "legacy", "in text"])
def test_a_module_that_a_prepared_data_set_names_is_not_imported(tmp_path, monkeypatch, named):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "sprung_features.py").write_text(MARK)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    folder = write_prepared(tmp_path / "sets")
    assert [row["item_id"] for row in read_prepared(tmp_path / "sets")] == ["a", "ü"]
    described = json.loads((folder / "features.json").read_text())
    trap = {"pythonClassName": "sprung_features.Text", "text": {}}
    if named == "features":
        described["pythonClassName"] = "sprung_features.Text"
    elif named == "feature":
        described["featuresDict"]["features"]["item_id"] = trap
    elif named == "legacy":
        described = {"type": "sprung_features.Text", "content": {}}
    else:
        described = {"pythonClassName": described["pythonClassName"], "jsonFeature": {"json": json.dumps({"a": trap})}}
    (folder / "features.json").write_text(json.dumps(described))
    with pytest.raises(
        InputError, match=r"1\.0\.0 can't be used: features\.json .*; delete that folder to have it made anew"
    ):
        read_prepared(tmp_path / "sets")
    assert os.listdir(tmp_path / "modules") == ["sprung_features.py"] and "sprung_features" not in sys.modules


@pytest.mark.parametrize("config", ["sprung", "../globo", ".."])
def test_a_config_that_only_files_have_is_not_looked_for_in_them(tmp_path, config):
    write_prepared(tmp_path).rename(tmp_path / "globo" / "9.9.9")
    with pytest.raises(InputError, match=r"data\.source\.config: .* not found for globo; it has none; leave it out"):
        read_prepared(tmp_path, config)


@pytest.mark.parametrize(
    "change",
    [
        {"filepathTemplate": "../../other-{SHARD_X_OF_Y}"},
        {"filepathTemplate": "/etc/passwd-{SHARD_X_OF_Y}"},
        {"filepathTemplate": "{DATASET}-{SHARD_X_OF_Y}"},
        {"name": "other"},
        {"shardLengths": ["1"] * 3},
    ],
)
def test_a_prepared_data_set_names_no_file_outside_of_its_folder(tmp_path, change):
    folder = write_prepared(tmp_path / "sets")
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"][0].update(change)
    (folder / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(InputError, match=r"1\.0\.0 can't be used: "):
        read_prepared(tmp_path / "sets")


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


def test_a_link_in_place_of_a_listed_file_must_lead_to_the_same_content(tmp_path):
    """A user may keep shards on another disk; what is not the listed content is refused, whoever put the link there."""
    (tmp_path / "data" / "Split-test").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    shard = examples.write_shard(str(tmp_path / "data"), "test", 0, 1, RECORDS)
    manifest.write(MANIFEST.model_copy(update={"shards": (shard,)}), str(tmp_path / "data"))
    path = tmp_path / "data" / shard.path
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    assert manifest.verify(str(tmp_path / "data")).shards == (shard,)
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="is not the file that _MANIFEST.json lists"):
        manifest.verify(str(tmp_path / "data"))
    examples.write_shard(str(tmp_path / "data"), "test", 0, 1, RECORDS)
    assert (tmp_path / "secret").read_text() == "secret" and not path.is_symlink()  # nothing is written through it


@pytest.mark.parametrize("name", ["../x", "a/b", "/x", ".", "..", "", "a\\b", "films\n", "films\0", "-x", "~"])
def test_the_names_of_runs_and_experiments_name_folders_inside_their_own(name):
    for kind, values in ((RunConfig, SMALL_RUN), (Experiment, EXPERIMENT)):
        assert config_file.parse_values(values, "my.yaml", kind).name == values["name"]
        with pytest.raises(InputError, match=r"(?s)^my\.yaml: name = .*String should match pattern"):
            config_file.parse_values({**values, "name": name}, "my.yaml", kind)


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
