"""The simulated log: reproducible, well-formed, and drawn from the distributions that its docstring states."""

import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from two_taste_model import two_taste_model

from fp_tfrs.config import DataConfig, SimulationConfig
from fp_tfrs.errors import InputError
from fp_tfrs.simulation import simulate


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("log") / "events.csv")
    config = SimulationConfig(sessions=3_000, items=300, seed=5)
    events = simulate.simulate_log(config, path)
    table = pd.read_csv(path)
    assert len(table) == events
    return config, path, table


def test_the_seed_decides_every_byte(log, tmp_path):
    config, path, _ = log
    again, other = str(tmp_path / "again.csv"), str(tmp_path / "other.csv")
    simulate.simulate_log(config, again)
    simulate.simulate_log(config.model_copy(update={"seed": 6}), other)
    with open(path, "rb") as first, open(again, "rb") as second, open(other, "rb") as third:
        content = first.read()
        assert content == second.read()
        assert content != third.read()


def test_a_log_whose_name_ends_in_gz_is_packed_equally_each_time(log, tmp_path):
    config, path, _ = log
    packed, again = tmp_path / "events.csv.gz", tmp_path / "other name.gz"
    for file in (packed, again):
        simulate.simulate_log(config, str(file))
    assert gzip.decompress(packed.read_bytes()) == Path(path).read_bytes()
    assert packed.read_bytes() == again.read_bytes()
    assert packed.read_bytes()[4:8] == bytes(4)  # no time in it


@pytest.mark.parametrize("name", ["events.parquet", "events.jsonl", "events.jsonl.gz", "events.json"])
def test_a_name_of_another_format_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=f"{name}: the log is written as CSV; name a file that ends in .csv"):
        simulate.simulate_log(SimulationConfig(sessions=10, items=100), str(tmp_path / name))
    assert os.listdir(tmp_path) == []


def test_a_log_without_slates_is_what_it_was_before_there_were_any(log, tmp_path):
    _, path, _ = log
    larger = str(tmp_path / "larger.csv")
    simulate.simulate_log(SimulationConfig(sessions=9_000), larger)
    hashes = [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in (path, larger)]
    assert hashes == [
        "1b56797761b6113364424c92d5d9f3aa72e837f37cd5b6035b4c6a91f130b6a5",
        "871a46fe2403f1f4e08c34ec0ddb4618284a5ba46f71f7a313d9505d4fd60ffb",
    ]


def test_a_log_is_well_formed(log):
    config, _, table = log
    assert tuple(table.columns) == simulate.COLUMNS
    assert table.skip.dtype == bool and table.timestamp.dtype == np.int64
    assert (table.skip == (table.dwell_s < simulate.ABANDONED_BELOW_S)).all()
    assert table.dwell_s.min() >= 1
    sessions = table.groupby("session_id", sort=False)
    assert sessions.timestamp.diff().dropna().min() > 0
    starts = sessions.timestamp.min()
    assert starts.is_monotonic_increasing
    assert 59 * 86_400 < starts.max() - starts.min() < simulate.SPAN_S
    assert sessions.user_id.nunique().max() == 1
    assert len(sessions) == config.sessions
    assert set(table.item_id) <= {f"item_{number:05d}" for number in range(config.items)}


def test_lengths_have_the_stated_mean_and_limits(log):
    lengths = log[2].groupby("session_id").size()
    assert lengths.min() == simulate.MIN_LENGTH and lengths.max() == simulate.MAX_LENGTH
    go_on = simulate.MEAN_EXTRA_LENGTH / (1 + simulate.MEAN_EXTRA_LENGTH)
    mean = simulate.MIN_LENGTH + sum(go_on**n for n in range(1, simulate.MAX_LENGTH - simulate.MIN_LENGTH + 1))
    assert abs(lengths.mean() - mean) < 4 * lengths.sem()


def test_the_default_log_is_the_benchmark_it_should_be(log):
    assert 0.28 < log[2].skip.mean() < 0.4


@pytest.mark.parametrize("slate", [None, 4])
def test_a_shorter_log_is_the_beginning_of_a_longer_one(slate):
    model = simulate.build_model(100, 3)
    short = next(simulate.draw_blocks(model, 50, 3, slate))
    first, second = simulate.draw_blocks(model, simulate.BLOCK_SESSIONS + 1, 3, slate)
    assert set(short.session) == set(range(50)) and set(second.session) == {simulate.BLOCK_SESSIONS}
    for name in ("session", "user", "item", "is_kept", "dwell_s", "is_click", "slate_position"):
        mine, longer = getattr(short, name), getattr(first, name)[: len(short.item)]
        assert np.array_equal(mine, longer, equal_nan=name == "dwell_s"), name


def test_pairs_of_events_follow_the_equations():
    model = two_taste_model()
    blocks = list(simulate.draw_blocks(model, 40_000, 1))
    expected = np.zeros((5, 2, 5, 2))
    bait, sequence = model.clickbait_share, model.sequence_share
    for z in range(2):
        for i in range(5):
            p_first = model.first_taste[z] * (bait * model.clickbait[i] + (1 - bait) * model.favourites[z, i])
            for kept in (0, 1):
                p_flag = model.keep[z, i] if kept else 1 - model.keep[z, i]
                for z2 in range(2):
                    target = model.next_chapter[z2, model.chapter[i]] if kept else -1
                    a = sequence if target >= 0 else 0.0
                    for i2 in range(5):
                        step = a * (model.chapter[i2] == target) * model.within_chapter[i2]
                        click = bait * model.clickbait[i2] + (1 - bait) * (step + (1 - a) * model.favourites[z2, i2])
                        for kept2 in (0, 1):
                            p_flag2 = model.keep[z2, i2] if kept2 else 1 - model.keep[z2, i2]
                            p = p_first * p_flag * model.next_taste[z, z2] * click * p_flag2
                            expected[i, kept, i2, kept2] += p
    assert expected.sum() == pytest.approx(1)

    observed = np.zeros_like(expected)
    for block in blocks:
        first = np.flatnonzero(np.diff(block.session, prepend=-1))
        kept = block.is_kept.astype(int)
        np.add.at(observed, (block.item[first], kept[first], block.item[first + 1], kept[first + 1]), 1)
    possible = expected > 0
    assert observed[~possible].sum() == 0
    assert stats.chisquare(observed[possible], expected[possible] * observed.sum()).pvalue > 1e-3


def test_the_more_disliked_the_sooner_left():
    model = two_taste_model()
    model.keep[:] = [0.9, 0.7, 0.5, 0.3, 0.1]  # the same for both tastes, so that an item tells its degree of dislike
    block = next(simulate.draw_blocks(model, 8_000, 2))
    for item, keep in enumerate(model.keep[0]):
        dwell_s = block.dwell_s[(block.item == item) & ~block.is_kept]
        mean_s = 1 + 8.9 / (1 + (1 + 4 * (1 - keep)))
        assert abs(dwell_s.mean() - mean_s) < 4 * stats.sem(dwell_s)
        share = block.is_kept[block.item == item]
        assert abs(share.mean() - keep) < 4 * stats.sem(share)


@pytest.mark.parametrize("items", [100, 101, 1_234])
def test_every_catalogue_size_gives_proper_distributions(items):
    model = simulate.build_model(items, 0)
    assert len(set(model.item_ids)) == items
    for rows in (model.favourites, model.next_taste, model.clickbait[None], model.first_taste[None]):
        assert np.allclose(rows.sum(axis=1), 1) and (rows >= 0).all()
    assert np.allclose(np.bincount(model.chapter, model.within_chapter), 1)
    assert (model.keep > 0).all() and (model.keep < 1).all()
    for following in model.next_chapter:  # one ring: each chapter of the taste once
        members = np.flatnonzero(following >= 0)
        visited = [members[0]]
        while following[visited[-1]] != members[0]:
            visited.append(following[visited[-1]])
        assert sorted(visited) == members.tolist()


def test_a_path_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot write .*nowhere.*: No such file"):
        simulate.simulate_log(SimulationConfig(sessions=10, items=100), str(tmp_path / "nowhere" / "events.csv"))


def test_an_interrupted_log_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*arguments):
        yield from draw_blocks(*arguments)
        raise KeyboardInterrupt

    draw_blocks = simulate.draw_blocks
    monkeypatch.setattr(simulate, "draw_blocks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simulate.simulate_log(SimulationConfig(sessions=10, items=100), str(tmp_path / "events.csv"))
    assert os.listdir(tmp_path) == []


def test_a_simulated_source_is_drawn_once(tmp_path):
    source = {"format": "simulated", "simulation": {"sessions": 10, "items": 100}}
    data = DataConfig.model_validate({"source": source, "columns": {"session_id": "session_id"}})
    drawn = simulate.draw_source(data, str(tmp_path))
    (path,) = drawn.source.files
    assert drawn.source.format == "csv" and pd.read_csv(path).session_id.nunique() == 10
    written = os.stat(path).st_mtime_ns
    assert simulate.draw_source(data, str(tmp_path)) == drawn and os.stat(path).st_mtime_ns == written
    assert simulate.draw_source(drawn, str(tmp_path)) == drawn
