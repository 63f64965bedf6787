"""Globo.com: news clicks of October 2017, one row a click; the published hourly CSV files → events.

`clicks_hour_*.csv` are read as published (header: `user_id, session_id, session_start, session_size, click_article_id,
click_timestamp, …`; names verified in public code that reads them), or `clicks.parquet`, all of them re-packed with four
of the columns. The columns that say where and on what device a user read are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from fp_tfrs.datasets.event_log import About, EventLogBuilder, Part, PartReader, find_file, find_files
from fp_tfrs.datasets.raw_files import TablePart, TextPart, read_table, read_text, table_parts, text_parts, to_id

_COLUMNS = ("user_id", "session_id", "click_article_id", "click_timestamp")
_REPACKED = "clicks.parquet"


class Globo(EventLogBuilder):
    """Events of Globo.com: `user_id`, `session_id`, `item_id`, `timestamp_ms`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Fetch clicks.zip of 'News Portal User Interactions by Globo.com' from Kaggle "
        "(https://www.kaggle.com/datasets/gspmoreira/news-portal-user-interactions-by-globocom), unpack it and name the "
        "folder that holds clicks_hour_000.csv, or the one above, as manual_dir."
    )
    ABOUT = About(
        description=(
            "Clicks on news articles of g1.globo.com, 1 to 16 October 2017. Nothing measures how a click was liked: the "
            "last click of a session has a made-up gap to the next, so that no honest rule for false positives exists."
        ),
        homepage="https://www.kaggle.com/datasets/gspmoreira/news-portal-user-interactions-by-globocom",
        citation=(
            "@inproceedings{moreira2018news, author={Moreira, Gabriel de Souza Pereira and Ferreira, Felipe and da Cunha, "
            "Adilson Marques}, title={News Session-Based Recommendations using Deep Neural Networks}, "
            "booktitle={DLRS}, year={2018}, doi={10.1145/3270323.3270328}}"
        ),
        license="No commercial use; education and research with a citation only.",
    )
    FEATURES: ClassVar = {
        "user_id": tfds.features.Text(),
        "session_id": tfds.features.Text(),
        "item_id": tfds.features.Text(),
        "timestamp_ms": np.int64,
    }

    def find_parts(self, folder: str) -> list[tuple[PartReader, Part]]:
        if find_file(folder, "clicks_hour_000.csv", _REPACKED).endswith(_REPACKED):
            return [(_read_repacked, part) for part in table_parts(find_file(folder, _REPACKED))]
        return [
            (_read_hour, part) for file in find_files(folder, "clicks_hour_*.csv") for part in text_parts(file, ",")
        ]


def _read_hour(part: TextPart) -> Iterator[dict[str, Any]]:
    return map(_make_event, read_text(part, _COLUMNS))


def _read_repacked(part: TablePart) -> Iterator[dict[str, Any]]:
    return map(_make_event, read_table(part, _COLUMNS))


def _make_event(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "user_id": to_id(row["user_id"]),
        "session_id": to_id(row["session_id"]),
        "item_id": to_id(row["click_article_id"]),
        "timestamp_ms": int(row["click_timestamp"]),
    }
