"""Each builder by TFDS' own test: from made-up files in the published form to a data set with the declared features."""

import importlib
import shutil
import tempfile
from pathlib import Path
from typing import ClassVar

import pytest
import tensorflow_datasets as tfds
from dataset_files import DUMMY_DATA, write_ebnerd, write_sequences

from fp_tfrs import datasets
from fp_tfrs.datasets.amazon_reviews import AmazonReviews
from fp_tfrs.datasets.diginetica import Diginetica
from fp_tfrs.datasets.ebnerd import Ebnerd
from fp_tfrs.datasets.globo import Globo
from fp_tfrs.datasets.kuairand import Kuairand
from fp_tfrs.datasets.lastfm1k import Lastfm1k
from fp_tfrs.datasets.mind import Mind
from fp_tfrs.datasets.movielens_ratings import MovielensRatings
from fp_tfrs.datasets.movietweetings import Movietweetings
from fp_tfrs.datasets.retailrocket import Retailrocket
from fp_tfrs.datasets.spotify_mssd import SpotifyMssd
from fp_tfrs.datasets.thirty_music import ThirtyMusic
from fp_tfrs.datasets.yoochoose import Yoochoose


class WithDummyData:
    """Gives TFDS' test the text files of dummy_data/ and the Parquet files that `WRITE` makes."""

    WRITE = staticmethod(lambda folder: None)

    @classmethod
    def setUpClass(cls):
        folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, folder)
        cls.EXAMPLE_DIR = f"{folder}/{cls.DATASET_CLASS.name}"
        if (text := DUMMY_DATA / cls.DATASET_CLASS.name).exists():
            shutil.copytree(text, cls.EXAMPLE_DIR)
        cls.WRITE(Path(cls.EXAMPLE_DIR))
        super().setUpClass()


class TestMovietweetings(WithDummyData, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Movietweetings
    SPLITS: ClassVar = {"events": 3}


class TestKuairand(WithDummyData, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Kuairand
    SPLITS: ClassVar = {"events": 6}


class TestGlobo(WithDummyData, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Globo
    SPLITS: ClassVar = {"events": 3}


class TestEbnerd(WithDummyData, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Ebnerd
    SPLITS: ClassVar = {"events": 6}
    WRITE = staticmethod(write_ebnerd)


class TestYoochoose(WithDummyData, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Yoochoose
    SPLITS: ClassVar = {"events": 5}
    WRITE = staticmethod(write_sequences)


class TestDiginetica(WithDummyData, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Diginetica
    SPLITS: ClassVar = {"events": 5}
    WRITE = staticmethod(write_sequences)


class TestAmazonReviews(WithDummyData, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = AmazonReviews
    SPLITS: ClassVar = {"events": 2}


class TestLastfm1k(WithDummyData, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Lastfm1k
    SPLITS: ClassVar = {"events": 4}


class TestMind(WithDummyData, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Mind
    SPLITS: ClassVar = {"events": 4}


class TestMovielensRatings(WithDummyData, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = MovielensRatings
    SPLITS: ClassVar = {"events": 2}


class TestRetailrocket(WithDummyData, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = Retailrocket
    SPLITS: ClassVar = {"events": 3}


class TestSpotifyMssd(WithDummyData, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = SpotifyMssd
    SPLITS: ClassVar = {"events": 3}


class TestThirtyMusic(WithDummyData, tfds.testing.DatasetBuilderTestCase):
    DATASET_CLASS = ThirtyMusic
    SPLITS: ClassVar = {"events": 3}


def test_the_list_of_names_has_every_builder():
    folder = Path(datasets.__file__).parent
    with_builder = {path.stem for path in folder.glob("*.py") if "(EventLogBuilder):" in path.read_text()}
    assert with_builder == set(datasets.NAMES)


@pytest.mark.parametrize("name", datasets.NAMES)
def test_every_data_set_says_what_it_is_and_what_is_fetched_has_a_checksum(name):
    importlib.import_module(f"fp_tfrs.datasets.{name}")
    builder = tfds.builder_cls(name)
    about = builder.ABOUT
    assert about.description and about.license and about.homepage.startswith("https://")
    assert "manual_dir" in builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    assert {"item_id", "timestamp_ms"} <= set(builder.FEATURES)
    urls = {builder(config=config).url for config in builder.builder_configs or [None]} - {None}
    assert urls <= set(builder.url_infos)
