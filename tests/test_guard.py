"""Which Keras a process ends up with, or the one sentence that it gets: each case in a process of its own."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
INHERITED = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=PROJECT,
        env={**INHERITED, **environment},
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )


def test_import_is_light_and_silent():
    run = run_python("""
        import sys, time
        start_s = time.perf_counter()
        import fp_tfrs
        assert time.perf_counter() - start_s <= 0.05
        assert not {"tensorflow", "numpy", "keras", "tf_keras"} & set(sys.modules)
    """)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_imported_before_tensorflow_it_brings_keras_2():
    import tensorflow as tf  # here, after fp_tfrs (conftest.py), and shared with the other tests

    assert tf.keras.layers.Dense.__module__.startswith("tf_keras.")


def test_imported_after_tensorflow_with_keras_3_it_says_one_sentence():
    run = run_python(
        """
        import tensorflow
        try:
            import fp_tfrs
        except ImportError as error:
            print(error)
        import fp_tfrs
        """,
        TF_CPP_MIN_LOG_LEVEL="3",
        PYTHONWARNINGS="ignore",
    )
    assert run.returncode == 1
    # TensorFlow 2.21 itself says, whatever it is told, what it was built with and what hardware it misses.
    printed = [line for line in run.stderr.splitlines() if not line.startswith(("WARNING: All log messages", "I0000 "))]
    assert printed == run.stdout.splitlines()  # as an exception, then as all that an uncaught one prints
    assert len(printed) == 1
    assert "Keras 3" in printed[0]
    assert "import fp_tfrs first" in run.stderr


@pytest.mark.parametrize(
    ("before", "environment", "words"),
    [
        ("", {"TF_USE_LEGACY_KERAS": "0"}, ["TF_USE_LEGACY_KERAS is '0'", "set it to 1"]),
        ("import sys; sys.path = [p for p in sys.path if 'site-packages' not in p]", {}, ["tf_keras", "install"]),
    ],
)
def test_without_keras_2_it_says_one_sentence(before, environment, words):
    run = run_python(f"{before}\nimport fp_tfrs", **environment)
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert "Traceback" not in run.stderr
    for word in words:
        assert word in run.stderr


def test_other_errors_print_as_usual():
    run = run_python(
        "try:\n    import fp_tfrs\nexcept ImportError:\n    raise KeyError('mine') from None", TF_USE_LEGACY_KERAS="0"
    )
    assert "Traceback" in run.stderr
    assert "KeyError: 'mine'" in run.stderr


def test_user_settings_stay():
    run = run_python("import os, fp_tfrs; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])", TF_CPP_MIN_LOG_LEVEL="0")
    assert run.stdout == "0\n"
