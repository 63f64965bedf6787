"""MIND: news that was shown at Microsoft News, autumn 2019; one row of `behaviors.tsv` an impression → events.

Read as published (no header; impression, user, `MM/DD/YYYY HH:MM:SS AM/PM`, history, impressions `N1-1 N2-0` by tabs: the
publisher's description): one event per article that was shown. `train` and, where it is there, `dev`, as
`MINDsmall_train/behaviors.tsv` or `train/behaviors.tsv`. The histories have no times and are left out, and so is the
test part, which does not tell the clicks. Times have no zone and are taken as UTC.
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from fp_tfrs.datasets.event_log import About, EventLogBuilder, Part, PartReader, find_file
from fp_tfrs.datasets.raw_files import TextPart, read_text, text_parts
from fp_tfrs.errors import InputError

_COLUMNS = ("impression", "user", "time", "history", "shown")
_EPOCH = datetime.datetime(1970, 1, 1)
_MS = datetime.timedelta(milliseconds=1)


class Mind(EventLogBuilder):
    """Events of MIND: `user_id`, `item_id`, `timestamp_ms`, `is_click`."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "First version."}
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name="small", description="MINDsmall: 50,000 users."),
        tfds.core.BuilderConfig(name="large", description="MINDlarge: all users."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Accept the terms at https://msnews.github.io, fetch MINDsmall_train and _dev or MINDlarge_train and _dev, unpack "
        "each into a folder of its name and name the folder above them as manual_dir."
    )
    ABOUT = About(
        description="News articles shown to users; rows with is_click = false were only shown. No dwell times.",
        homepage="https://msnews.github.io",
        citation=(
            "@inproceedings{wu2020mind, author={Wu, Fangzhao and Qiao, Ying and Chen, Jiun-Hung and Wu, Chuhan and Qi, "
            "Tao and Lian, Jianxun and Liu, Danyang and Xie, Xing and Gao, Jianfeng and Wu, Winnie and Zhou, Ming}, "
            "title={{MIND}: A Large-scale Dataset for News Recommendation}, booktitle={ACL}, pages={3597--3606}, "
            "year={2020}}"
        ),
        license="Microsoft Research License Terms: research use.",
    )
    FEATURES: ClassVar = {
        "user_id": tfds.features.Text(),
        "item_id": tfds.features.Text(),
        "timestamp_ms": np.int64,
        "is_click": np.bool_,
    }

    def find_parts(self, folder: str) -> list[tuple[PartReader, Part]]:
        bundle = f"MIND{self.builder_config.name}"
        files = [find_file(folder, f"{bundle}_train/behaviors.tsv", "train/behaviors.tsv")]
        with contextlib.suppress(InputError):  # train alone is a log, too
            files.append(find_file(folder, f"{bundle}_dev/behaviors.tsv", "dev/behaviors.tsv"))
        return [(_read, part) for file in files for part in text_parts(file, "\t", _COLUMNS)]


def _read(part: TextPart) -> Iterator[dict[str, Any]]:
    for row in read_text(part, _COLUMNS):
        time = datetime.datetime.strptime(row["time"], "%m/%d/%Y %I:%M:%S %p")
        for shown in row["shown"].split():
            article, _, is_click = shown.rpartition("-")
            yield {
                "user_id": row["user"],
                "item_id": article,
                "timestamp_ms": (time - _EPOCH) // _MS,
                "is_click": bool(int(is_click)),
            }
