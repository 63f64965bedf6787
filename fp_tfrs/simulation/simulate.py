"""Draws an event log from a generative model: the log's first station when there is no real one. In: a
`SimulationConfig`. Out: a CSV file of events that carry `dwell_s` and `skip`, made block by block in constant memory.

The model has one hidden variable with Z values, so what is known of a session can be computed exactly (`bayes.py`).
It is built from (items, seed) alone; sessions are independent of each other and of their users, who carry no taste.

Catalogue. V items form chapters of 10 (the last may be shorter); an item's number says nothing of its chapter. A
chapter belongs to 2 of Z = 10 tastes, and the chapters of a taste form a ring in random order: next(z, g). Of the
items 6 % are clickbait: all tastes click them, few keep them. Write on(z, i) = 1 if item i's chapter belongs to taste z.

A session, for events j = 1..n, with z the taste, l the last kept item (none at first; an abandoned click moves nobody):
    n                       3 + G, G geometric with mean 9, cut at 40; independent of all else (mean 11.8)
    P(z_1)                = 1/Z
    P(z_j | z_{j-1})      = STAY [z_j = z_{j-1}] + (1 − STAY)/Z                                          STAY = 0.97
    P(i_j | z_j, l)       = β c(i) + (1 − β) [a w(i) [chapter(i) = next(z, chapter(l))] + (1 − a) q(z, i)]   β = 0.36
                            a = α on(z, l), and 0 if l is none                                                α = 0.85
        c  clickbait: ∝ rank^-0.6 over the clickbait items in random order
        w  within a chapter: ∝ 0.75^position
        q  a taste's favourites: ∝ on(z, i) rank^-0.7 with the items in a random order for each taste
    P(kept | z_j, i_j)    = 1 − d(z_j, i_j)
        d  degree of dislike: uniform in [0.02, 0.25] where on(z, i), in [0.65, 0.98] elsewhere; each (z, i) has its own
    dwell_s               = 1 + 8.9 U^(1 + 4 d) < 10 if abandoned: the more disliked, the sooner left;
                            10 + an exponential of mean 60 if kept; U uniform; written with one decimal
    time to the next event= dwell_s rounded up + 1 + a geometric pause of mean 15 s
Sessions start at increasing times that spread evenly over 60 days, whatever the number of sessions; nothing drifts.

`skip` says whether the click was abandoned, which is the same as dwell_s < 10. Dwell within the two cases is a leaf of
the model: nothing later depends on it, so the filter over (item, abandoned or not) is exact for whoever sees these two.
(An observer of dwell would know a little more of the taste, through d.)

With `slate` users are shown several items at each step and click one or none of them; `slates.py` says what then holds
instead. Without it, all of the above does, and a step is a click.

Every block of 8,192 sessions has its own random generator, derived from (seed, block): of two logs that differ in the
number of sessions the shorter is the beginning of the longer, but for the times.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import os
from collections.abc import Iterator
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from fp_tfrs import storage
from fp_tfrs.config import DataConfig, SimulationConfig, SourceConfig, dump, fingerprint
from fp_tfrs.errors import InputError
from fp_tfrs.fingerprint import code_fingerprint
from fp_tfrs.simulation import slates

COLUMNS = ("session_id", "user_id", "item_id", "timestamp", "dwell_s", "skip")
SLATE_COLUMNS = (*COLUMNS, "is_click", "slate_position")
ABANDONED_BELOW_S = 10.0

TASTES = 10
TASTES_PER_CHAPTER = 2
CHAPTER_SIZE = 10
STAY = 0.97
SEQUENCE_SHARE = 0.85  # α
CLICKBAIT_SHARE = 0.36  # β
CLICKBAIT_ITEMS = 0.06  # of the catalogue
CLICKBAIT_EXPONENT = 0.6
FAVOURITE_EXPONENT = 0.7
CHAPTER_DECAY = 0.75
DISLIKE_ON_TASTE = (0.02, 0.25)
DISLIKE_OFF_TASTE = (0.65, 0.98)

MIN_LENGTH, MAX_LENGTH, MEAN_EXTRA_LENGTH = 3, 40, 9
MEAN_DWELL_S, MEAN_PAUSE_S = 60.0, 15
FIRST_START_S, SPAN_S = 1_700_000_000, 60 * 86_400
SESSIONS_PER_USER = 4
BLOCK_SESSIONS = 8_192


@dataclasses.dataclass(frozen=True)
class LogModel:
    """The distributions of the module's docstring. Z tastes, V items, G chapters; items of a chapter are neighbours."""

    first_taste: np.ndarray  # float64[Z]
    next_taste: np.ndarray  # float64[Z, Z], from row to column
    next_chapter: np.ndarray  # int64[Z, G]; −1 = the chapter is not of that taste
    chapter: np.ndarray  # int64[V], non-decreasing
    within_chapter: np.ndarray  # float64[V], sums to 1 over each chapter
    favourites: np.ndarray  # float64[Z, V], rows sum to 1
    clickbait: np.ndarray  # float64[V], sums to 1
    keep: np.ndarray  # float64[Z, V]
    sequence_share: float
    clickbait_share: float
    item_ids: tuple[str, ...]  # V names


@dataclasses.dataclass(frozen=True)
class EventBlock:
    """Rows of consecutive sessions, N in all: clicks, or items shown, those of a slate from the top. A session's are
    together and oldest first."""

    session: np.ndarray  # int64[N], from 0
    user: np.ndarray  # int64[N], from 0
    item: np.ndarray  # int64[N], row of the model
    is_kept: np.ndarray  # bool[N], false where not clicked
    timestamp_s: np.ndarray  # int64[N]
    dwell_s: np.ndarray  # float64[N], NaN where not clicked
    is_click: np.ndarray  # bool[N], all true without slates
    slate_position: np.ndarray  # int64[N], from 0; all 0 without slates


def build_model(items: int, seed: int) -> LogModel:
    """The model for a catalogue of this size; the same arguments give the same model."""
    rng = np.random.default_rng([seed, 0])
    chapter = np.arange(items) // CHAPTER_SIZE
    n_chapters = int(chapter[-1]) + 1
    # One taste in turn, so that no taste is without chapters, and others at a random distance from it.
    distance = 1 + np.argsort(rng.random((n_chapters, TASTES - 1)), axis=1)[:, : TASTES_PER_CHAPTER - 1]
    first = np.arange(n_chapters)[:, None] % TASTES
    is_of_taste = np.zeros((TASTES, n_chapters), bool)
    is_of_taste[np.concatenate([first, (first + distance) % TASTES], axis=1), np.arange(n_chapters)[:, None]] = True

    next_chapter = np.full((TASTES, n_chapters), -1)
    for ring, members in zip(next_chapter, is_of_taste, strict=True):
        order = rng.permutation(np.flatnonzero(members))
        ring[order] = np.roll(order, -1)

    is_on = is_of_taste[:, chapter]
    favourites = is_on * np.stack([_zipf(rng.permutation(items), FAVOURITE_EXPONENT) for _ in range(TASTES)])
    clickbait = np.zeros(items)
    baits = rng.permutation(items)[: max(1, round(CLICKBAIT_ITEMS * items))]
    clickbait[baits] = _zipf(np.arange(len(baits)), CLICKBAIT_EXPONENT)
    within = CHAPTER_DECAY ** (np.arange(items) % CHAPTER_SIZE)
    dislike = np.where(is_on, rng.uniform(*DISLIKE_ON_TASTE, is_on.shape), rng.uniform(*DISLIKE_OFF_TASTE, is_on.shape))
    numbers = rng.permutation(items)
    return LogModel(
        first_taste=np.full(TASTES, 1 / TASTES),
        next_taste=STAY * np.eye(TASTES) + (1 - STAY) / TASTES,
        next_chapter=next_chapter,
        chapter=chapter,
        within_chapter=within / np.bincount(chapter, within)[chapter],
        favourites=favourites / favourites.sum(axis=1, keepdims=True),
        clickbait=clickbait / clickbait.sum(),
        keep=1 - dislike,
        sequence_share=SEQUENCE_SHARE,
        clickbait_share=CLICKBAIT_SHARE,
        item_ids=tuple(f"item_{number:05d}" for number in numbers),
    )


def draw_blocks(model: LogModel, sessions: int, seed: int, slate: int | None = None) -> Iterator[EventBlock]:
    """The log's rows in blocks of `BLOCK_SESSIONS` sessions; memory does not depend on `sessions`."""
    sampler = _Sampler(model, slate, seed)
    for block, first in enumerate(range(0, sessions, BLOCK_SESSIONS)):
        rng = np.random.default_rng([seed, 1, block])
        yield sampler.draw(rng, first, min(BLOCK_SESSIONS, sessions - first), SPAN_S / sessions)


def simulate_log(config: SimulationConfig, path: str) -> int:
    """Writes the log as CSV with header; returns its rows.

    The columns are `COLUMNS`, with slates `SLATE_COLUMNS`: timestamp in seconds, skip true or false, is_click 1 or 0. Of
    an item that was shown and not clicked dwell_s and skip are empty.

    The file appears by rename when it is complete; it is packed if its name ends in .gz, equally for equal logs.

    Raises:
        InputError: the path cannot be written, or its name is one of another format.
    """
    from fp_tfrs.progress import Progress

    if path.removesuffix(".gz").endswith((".parquet", ".jsonl", ".json")):
        raise InputError(f"{path}: the log is written as CSV; name a file that ends in .csv or .csv.gz")
    model = build_model(config.items, config.seed)
    item_ids = pa.array(model.item_ids)
    options = pa_csv.WriteOptions(include_header=False)
    columns = COLUMNS if config.slate is None else SLATE_COLUMNS
    rows = 0
    try:
        with (
            storage.replacing(path) as content,
            _packed(content) if path.endswith(".gz") else contextlib.nullcontext(content) as file,
            Progress(config.sessions, "simulate", "sessions") as progress,
        ):
            file.write((",".join(columns) + "\n").encode())
            for block in draw_blocks(model, config.sessions, config.seed, config.slate):
                pa_csv.write_csv(_table(block, item_ids).select(columns), file, options)
                rows += len(block.item)
                progress.advance(int(block.session[-1] - block.session[0]) + 1)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; name a file in a writable folder") from error
    return rows


def _packed(file: BinaryIO) -> BinaryIO:
    """To be written to, without the name and the time that gzip would note."""
    return cast(BinaryIO, gzip.GzipFile("", "wb", fileobj=file, mtime=0))


def draw_source(data: DataConfig, folder: str) -> DataConfig:
    """The data's configuration with a simulated source drawn to a CSV file of `folder`; others as they are."""
    simulation = data.source.simulation
    if simulation is None:
        return data
    storage.make_folder(folder)
    path = os.path.join(folder, f"events-{fingerprint(dump(simulation), code_fingerprint(__name__))}.csv")
    if not storage.exists(path):
        simulate_log(simulation, path)
    return data.model_copy(update={"source": SourceConfig(format="csv", files=(path,))})


class _Sampler:
    """Draws sessions from a model by inverting cumulative distributions, all sessions of a block in step."""

    def __init__(self, model: LogModel, slate: int | None, seed: int) -> None:
        self.model, self.slate, self.seed = model, slate, seed
        self.next_taste = _cumulative(model.next_taste)
        self.favourites = _cumulative(model.favourites)
        self.clickbait = _cumulative(model.clickbait[None])
        ends = np.cumsum(np.bincount(model.chapter))
        before = np.cumsum(model.within_chapter)
        # A chapter is a row of its own: its items' cumulative shares follow those of the chapters before it.
        self.within = np.minimum(before, model.chapter + 1.0)
        self.within[ends - 1] = model.chapter[ends - 1] + 1.0

    def draw(self, rng: np.random.Generator, first_session: int, sessions: int, spacing_s: float) -> EventBlock:
        """One block. Every session of a full block is drawn, so that what is kept doesn't depend on how many are."""
        n = BLOCK_SESSIONS
        extra = rng.geometric(1 / (1 + MEAN_EXTRA_LENGTH), n) - 1
        length = np.minimum(MIN_LENGTH + extra, MAX_LENGTH)
        start_s = FIRST_START_S + np.floor((first_session + np.arange(n) + rng.random(n)) * spacing_s).astype(np.int64)
        session = first_session + np.arange(n)
        if self.slate is None:
            user = np.floor(rng.random(n) * (session // SESSIONS_PER_USER + 1)).astype(np.int64)
        else:
            user = slates.draw_users(rng, session)
        taste, shown, clicked, is_kept = self._steps(rng, length, user)

        is_clicked = clicked >= 0
        item = np.take_along_axis(shown, np.maximum(clicked, 0)[..., None], axis=2)[..., 0]
        uniform = rng.random(item.shape)
        dislike = 1 - self.model.keep[taste, item]
        abandoned_s = 1 + 8.9 * uniform ** (1 + 4 * dislike)
        kept_s = ABANDONED_BELOW_S - MEAN_DWELL_S * np.log1p(-uniform)
        dwell_s = np.where(is_clicked, np.round(np.where(is_kept, kept_s, abandoned_s), 1), 0)
        step_s = np.ceil(dwell_s).astype(np.int64) + rng.geometric(1 / (1 + MEAN_PAUSE_S), item.shape)
        timestamp_s = start_s[:, None] + np.cumsum(step_s, axis=1) - step_s

        is_step = np.arange(MAX_LENGTH) < length[:, None]
        is_step[sessions:] = False
        is_row = is_step[..., None] & (shown >= 0)
        row, step, place = np.nonzero(is_row)
        is_click = clicked[row, step] == place
        return EventBlock(
            session[row],
            user[row],
            shown[is_row],
            is_click & is_kept[row, step],
            timestamp_s[row, step],
            np.where(is_click, dwell_s[row, step], np.nan),
            is_click,
            (np.cumsum(is_row, axis=2) - 1)[is_row],
        )

    def _steps(
        self, rng: np.random.Generator, length: np.ndarray, user: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """What happens at each step of n sessions; a step without slates shows the one item that is clicked.

        Returns:
            taste: int64[n, MAX_LENGTH].
            shown: int64[n, MAX_LENGTH, K], the items drawn for the slate; −1 = a repeated one, which is not shown.
            clicked: int64[n, MAX_LENGTH], which of them was clicked; −1 = none was.
            is_kept: bool[n, MAX_LENGTH].
            After a session's length they say nothing.
        """
        model, k = self.model, self.slate or 1
        shape = (len(length), MAX_LENGTH)
        tastes, clicks, keeps = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, bool)
        shown = np.zeros((*shape, k), np.int64)
        taste = rng.choice(len(model.first_taste), len(length), p=model.first_taste)
        chapter = np.full(len(length), -1)  # of the last kept item
        if self.slate is not None:
            users, user = np.unique(user, return_inverse=True)
            is_ignored = slates.ignored_chapters(self.seed, users, len(model.next_chapter[0]))
        for step in range(MAX_LENGTH):
            live = np.flatnonzero(length > step)
            change, *draws, keep = rng.random((2 + 3 * k, len(live)))
            z = _pick(self.next_taste, taste[live], change) if step else taste[live]
            target = np.where(chapter[live] < 0, -1, model.next_chapter[z, chapter[live]])
            items = self._items(z, target, *np.reshape(draws, (3, k, -1)))
            if self.slate is None:
                clicked = np.zeros(len(live), np.int64)
            else:
                items[slates.is_repeated(items)] = -1
                clicked = slates.click(items >= 0, is_ignored[user[live], model.chapter[items]], rng.random(len(live)))
            item = items[np.maximum(clicked, 0), np.arange(len(live))]
            kept = (keep < model.keep[z, item]) & (clicked >= 0)
            taste[live] = z
            chapter[live[kept]] = model.chapter[item[kept]]
            tastes[live, step], clicks[live, step], keeps[live, step], shown[live, step] = z, clicked, kept, items.T
        return tastes, shown, clicks, keeps

    def _items(
        self, z: np.ndarray, target: np.ndarray, bait: np.ndarray, follow: np.ndarray, which: np.ndarray
    ) -> np.ndarray:
        """`<int64>[K, n]` items for n tastes and chapters that follow (−1 = none), from uniform numbers [K, n]."""
        target = np.broadcast_to(target, which.shape)
        item = _pick(self.favourites, z, which)
        follows = (follow < self.model.sequence_share) & (target >= 0)
        item[follows] = _pick_flat(self.within, target[follows], which[follows])
        is_bait = bait < self.model.clickbait_share
        item[is_bait] = _pick(self.clickbait, np.zeros(is_bait.sum(), np.int64), which[is_bait])
        return item


def _zipf(rank: np.ndarray, exponent: float) -> np.ndarray:
    """Unnormalised weights for ranks from 0."""
    return (rank + 1.0) ** -exponent


def _cumulative(rows: np.ndarray) -> np.ndarray:
    """[R, C] distributions → [R · C] cumulative shares, row r between r and r + 1, for `_pick`."""
    shares = np.cumsum(rows, axis=1)
    return (shares / shares[:, -1:] + np.arange(len(rows))[:, None]).ravel()


def _pick_flat(cumulative: np.ndarray, row: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Position in `cumulative` that each uniform number in [0, 1) of its row falls on."""
    # Just below 1, so that row + uniform never rounds up into the next row.
    return np.asarray(np.searchsorted(cumulative, row + uniform * (1 - 1e-9), side="right"))


def _pick(cumulative: np.ndarray, row: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """As `_pick_flat`, for rows of equal width: the column."""
    width = len(cumulative) // round(float(cumulative[-1]))
    return _pick_flat(cumulative, row, uniform) - row * width


def _table(block: EventBlock, item_ids: pa.Array) -> pa.Table:
    """The block as it is written, with all columns."""
    first = int(block.session[0])
    sessions = pa.array([f"s{number:09d}" for number in range(first, int(block.session[-1]) + 1)])
    users, user = np.unique(block.user, return_inverse=True)
    columns = (
        sessions.take(pa.array(block.session - first)),
        pa.array([f"u{number:08d}" for number in users]).take(pa.array(user)),
        item_ids.take(pa.array(block.item)),
        pa.array(block.timestamp_s),
        pa.array(block.dwell_s, mask=~block.is_click),
        pa.array(~block.is_kept, mask=~block.is_click),
        pa.array(block.is_click.astype(np.int8)),
        pa.array(block.slate_position),
    )
    return pa.table(columns, names=SLATE_COLUMNS)
