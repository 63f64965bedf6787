"""Preprocessing by workers in other processes: what they write is the single process's to the byte; what is hard for them."""

import pytest

from benchmarks import beam_workers
from fp_tfrs import config_file, schema
from fp_tfrs.data.examples import write_shard

MOST_MIB = 2_048  # of a worker, TensorFlow included


def test_a_digest_knows_records_and_neither_their_order_nor_their_files(tmp_path):
    def digest(name, *shards):
        for split in schema.SPLITS:
            for number, records in enumerate(shards):
                write_shard(str(tmp_path / name), split, number, len(shards), records)
        return beam_workers.digest_records(tmp_path / name)["train"]

    one = digest("one", [b"ab", b"c", b"c"])
    assert digest("turned", [b"c"], [b"c", b"ab"]) == one
    assert (
        len({one, digest("fewer", [b"ab", b"c"]), digest("joined", [b"abc", b"c"]), digest("cut", [b"a", b"bc", b"c"])})
        == 4
    )


@pytest.fixture(scope="module")
def outcomes(beam_processes, tmp_path_factory):
    """21,000 rows with histories and unclicked items, each way; it fails if a count or a byte differs."""
    folder = tmp_path_factory.mktemp("ways")
    return beam_workers.compare_ways(beam_workers.write_busy_user(folder / "log.csv", 500), folder / "ways")


@pytest.mark.e2e
def test_workers_and_a_job_server_write_what_one_process_writes(outcomes):
    one, two, served = outcomes.values()
    assert one.counts["rows"] == 21_000 and one.counts["impressions"] == 500
    assert sum(split["events_with_unclicked"] for split in one.counts["splits"].values()) > 0
    assert one.digests == two.digests == served.digests and len({*one.digests.values()}) == len(schema.SPLITS)


@pytest.mark.e2e
def test_each_way_worked_in_the_processes_that_it_says(outcomes):
    found = {way: {role: len(of) for role, of in outcome.memory_mib.items()} for way, outcome in outcomes.items()}
    assert found["one process"] == {"driver": 1}
    assert found["two processes"] == {"driver": 1, "worker": 2}
    assert found["job server"] == {"driver": 1, "job server": 1, "worker pool": 1, "worker": 1}


@pytest.mark.long
@pytest.mark.real_data
def test_three_million_clicks_are_the_same_each_way(beam_processes, data_dir, tmp_path, capsys, record_figure):
    data = config_file.load("configs/datasets/globo.yaml").data
    source = data.source.model_copy(update={"manual_dir": str(data_dir / "globo"), "data_dir": str(tmp_path / "tfds")})
    outcomes = beam_workers.compare_ways(data.model_copy(update={"source": source}), tmp_path / "ways")
    assert outcomes["one process"].counts["clicks"] == 2_988_181
    show(capsys, outcomes)
    most = max(outcomes["two processes"].memory_mib["worker"])
    record_figure(
        "3 M clicks by one process, two, a job server", f"the same bytes; a worker {most:,} MiB", f"{MOST_MIB:,} MiB"
    )
    assert most < MOST_MIB


@pytest.mark.long
@pytest.mark.parametrize("write", [beam_workers.write_busy_user, beam_workers.write_large_catalogue])
def test_a_million_events_of_one_user_or_a_million_items_fit_into_a_worker(
    beam_processes, write, tmp_path, capsys, record_figure
):
    outcome = beam_workers.process(write(tmp_path / "log.csv", 1_000_000), beam_workers.TWO, tmp_path / "work")
    show(capsys, {write.__name__: outcome})
    most = max(outcome.memory_mib["worker"])
    record_figure(
        f"{write.__name__.removeprefix('write_').replace('_', ' ')}, a million",
        f"a worker {most:,} MiB",
        f"{MOST_MIB:,} MiB",
    )
    assert most < MOST_MIB


def show(capsys, outcomes):
    with capsys.disabled():
        print("", *beam_workers.format_outcomes(outcomes), sep="\n")
