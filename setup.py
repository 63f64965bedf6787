"""Package metadata. The ranges admit both sets that are tested and that `make` installs one of: requirements.lock (Python
3.10) and requirements-forward.lock (Python 3.11 to 3.13).
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

setup(
    name="fp-tfrs",
    version=re.search(r'^__version__ = "(.+)"$', (HERE / "fp_tfrs/__init__.py").read_text("utf-8"), re.MULTILINE).group(
        1
    ),
    description="Session-based recommendation that learns from false positives, as a TFX pipeline",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["fp_tfrs*", "components*", "pipeline*"]),
    package_data={
        "fp_tfrs.datasets": ["checksums.tsv"],
        "fp_tfrs.demo": ["static/*"],
        "fp_tfrs.evaluation": ["model_card.md.j2"],
        "fp_tfrs.experiments": ["report.html.j2"],
    },
    install_requires=[
        "absl-py>=1.4,<2",
        "apache-beam[dill]>=2.74,<2.78",
        "docker>=7,<8",
        "grpcio>=1.60,<2",
        "importlib-resources>=6,<8",  # tensorflow-datasets imports it and does not say so
        "jinja2>=3.1,<4",
        "keras-tuner>=1.3.5,<1.4",
        "kfp>=2.5,<2.18",
        "markdown-it-py>=3,<5",
        "markupsafe>=2.1,<4",
        "matplotlib>=3.9,<4",
        "ml-metadata>=1.16,<1.22",
        "numpy>=1.24,<3",
        "pandas>=1.5,<3",
        "protobuf>=3.20.3,<7",
        "pyarrow>=10,<19",
        "pydantic>=2.5,<3",
        "python-dateutil>=2.8,<3",
        "PyYAML>=6,<7",
        "scikit-learn>=1.5,<1.6",
        "scipy>=1.10,<1.19",
        "tensorboard>=2.16,<2.22",  # keras-tuner imports it, and TensorFlow 2.21 no longer brings it
        "tensorflow>=2.16.2,<2.22",
        "tensorflow-data-validation>=1.16,<1.22",
        "tensorflow-datasets>=4.9.10,<4.10",
        "tensorflow-metadata>=1.16,<1.22",
        "tensorflow-model-analysis>=0.47,<0.53",
        "tensorflow-recommenders>=0.7.7,<0.8",
        "tensorflow-serving-api>=2.16,<2.22",
        "tensorflow-transform>=1.16,<1.22",
        "tf-keras>=2.16,<2.22",
        "tfx>=1.16,<1.22",
        "tornado>=6.4,<7",
        "tqdm>=4.60,<5",
        "typing-extensions>=4.5,<5",
    ],
    extras_require={
        "scann": ["scann==1.3.2; python_version < '3.11'"],  # for TensorFlow 2.16; there is none for 2.21
        "tools": [
            "hypothesis>=6,<7",
            "mypy>=2,<3",
            "playwright>=1.60,<2",
            "pytest>=9,<10",
            "pytest-xdist>=3.8,<4",
            "ruff>=0.17,<0.18",
            "setuptools>=64",
        ],
    },
    entry_points={"console_scripts": ["fp-tfrs=pipeline.cli:main"]},
)
