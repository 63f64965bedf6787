"""What all tests share: the package's quiet settings before TensorFlow is imported, and the folder of real data."""

import os
from pathlib import Path

import pytest

import fp_tfrs  # noqa: F401  settles Keras 2 and the log level before any test module imports TensorFlow


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with the real data sets; tests that use it are marked `real_data`."""
    folder = os.environ.get("FP_TFRS_DATA_DIR")
    if not folder:
        pytest.skip("FP_TFRS_DATA_DIR is not set: no real data to read")
    if not Path(folder).is_dir():
        pytest.skip(f"FP_TFRS_DATA_DIR={folder} is no folder: no real data to read")
    return Path(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """TensorFlow's test cases have a context manager `test_session`, which its name makes a test that skips itself."""
    items[:] = [item for item in items if item.name != "test_session"]
