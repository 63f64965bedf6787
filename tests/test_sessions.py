import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fp_tfrs.config import SessionsConfig, SplitConfig
from fp_tfrs.data.sessions import Session, SessionEvent, StartHistogram, assign_split, count_targets, cut_sessions


def event(time_s: float, item: str = "a", is_fp: bool = False, dwell: float = 1.0, user: str = "u") -> SessionEvent:
    return SessionEvent(time_s, item, is_fp, (dwell,), user)


def cut(events, has_session_id=False, **sessions):
    return cut_sessions("u", events, SessionsConfig(**sessions), ("dwell",), has_session_id=has_session_id)


events_strategy = st.lists(
    st.builds(event, st.integers(0, 200).map(lambda n: n / 4), st.sampled_from("abc"), st.booleans()),
    min_size=1,
    max_size=30,
)


@settings(max_examples=200, deadline=None)
@given(events_strategy, st.randoms(use_true_random=False), st.booleans())
def test_order_and_repetition_of_events_change_nothing(events, rng, has_session_id):
    limits = {"gap_s": 5, "max_length": 4, "same_time": rng.choice(["item_id", "hash"])}
    clean = cut(sorted(set(events)), has_session_id, **limits)
    repeated = [*events, *rng.sample(events, len(events) // 2)]
    rng.shuffle(repeated)
    dirty = cut(repeated, has_session_id, **limits)
    assert dirty.sessions == clean.sessions
    assert dirty.duplicate_events == len(repeated) - len(set(events)) and clean.duplicate_events == 0
    written = sum(len(session.item_id) for session in dirty.sessions)
    assert len(repeated) == dirty.duplicate_events + dirty.short_events + dirty.cut_events + written
    assert len({session.session_id for session in dirty.sessions}) == len(dirty.sessions)


def test_same_time_by_hash_tells_nothing_of_the_next_id():
    """By id, "the next one is larger" holds always, and a model that learns it looks good."""

    def ascending(same_time):
        config, tied = SessionsConfig(same_time=same_time), [event(5, item) for item in "cab"]
        cuts = [cut_sessions(str(n), tied, config, ("dwell",), has_session_id=True) for n in range(400)]
        assert all(found.tied_events == 2 for found in cuts)
        return sum(found.sessions[0].item_id == ("a", "b", "c") for found in cuts)

    assert ascending("item_id") == 400 and 40 < ascending("hash") < 95  # a sixth is 67, with a deviation of 7


@pytest.mark.parametrize("users, shared", [(["u", "u"], 0), (["", "u"], 0), (["u", "v"], 1)])
def test_a_session_id_that_several_users_have_is_counted(users, shared):
    events = [event(n, user=user) for n, user in enumerate(users)]
    assert cut(events, has_session_id=True).shared_keys == shared
    assert cut(events).shared_keys == 0  # a user's own key


def test_a_pause_longer_than_the_gap_starts_a_session():
    events = [event(10.9), event(20.9), event(31), event(41.0)]
    sessions = cut(events, gap_s=10.05).sessions
    assert [session.session_id for session in sessions] == ["u@10", "u@31"]
    assert [session.timestamp_s for session in sessions] == [(10, 20), (31, 41)]
    [whole] = cut(events).sessions
    assert whole.timestamp_s == (10, 20, 31, 41)


def test_sessions_that_start_in_the_same_second_have_different_names():
    events = [event(1.0), event(1.1), event(1.5), event(1.6)]
    assert [session.session_id for session in cut(events, gap_s=0.3).sessions] == ["u@1", "u@1.1"]


def test_session_ids_are_kept_and_never_cut_by_pauses():
    [session] = cut([event(0, user="v"), event(1e6, user="v")], has_session_id=True, gap_s=1).sessions
    assert (session.session_id, session.user_id) == ("u", "v")


@pytest.mark.parametrize(
    ("users", "expected"),
    [(["", "v", "", "w"], "v"), (["v", "", "", ""], "v"), (["", "", "", "v"], "v"), (["", ""], "")],
)
def test_a_session_is_of_the_first_user_that_its_events_name(users, expected):
    events = [event(n, user=user) for n, user in enumerate(users)]
    [session] = cut(events, has_session_id=True, max_length=2).sessions
    assert session.user_id == expected


def test_long_sessions_keep_their_last_events_and_their_flags():
    events = [event(t, item=f"i{t}", is_fp=t % 2 == 0, dwell=t / 2) for t in range(7)]
    result = cut(events, max_length=3)
    assert result.sessions == [
        Session("u@0", ("i4", "i5", "i6"), (True, False, True), "u", (4, 5, 6), {"dwell": (2.0, 2.5, 3.0)})
    ]
    assert result.cut_events == 4


def test_short_sessions_are_counted():
    result = cut([event(0), event(1), event(100), event(200), event(201), event(202)], gap_s=10, min_length=3)
    assert [session.session_id for session in result.sessions] == ["u@200"]
    assert (result.short_sessions, result.short_events) == (2, 3)


def test_targets_are_the_true_positives_after_the_first():
    session = Session("s", ("f", "a", "g", "b", "a", "b"), (True, False, True, False, False, False))
    assert count_targets(session) == {"b": 2, "a": 1}
    assert count_targets(Session("s", ("a", "b"), (False, True))) == {}


def histogram(starts, limit):
    result = StartHistogram(limit)
    for start in starts:
        result.add(start)
    return result


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 5_000), min_size=1, max_size=60), st.integers(1, 6), st.randoms(use_true_random=False))
def test_start_histogram_does_not_depend_on_the_order_of_merging(starts, n_parts, rng):
    whole = histogram(starts, 8)
    shuffled = rng.sample(starts, len(starts))
    parts = [histogram(shuffled[i::n_parts], 8) for i in range(n_parts)]
    while len(parts) > 1:
        rng.shuffle(parts)
        parts[0].merge(parts.pop())
    assert (parts[0].width_s, parts[0].counts) == (whole.width_s, whole.counts)
    # By its definition: the smallest power of two that needs at most 8 buckets.
    width_s = next(2**k for k in range(20) if len({start // 2**k for start in starts}) <= 8)
    assert whole.width_s == width_s
    assert whole.counts == {b: sum(s // width_s == b for s in starts) for b in {s // width_s for s in starts}}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 10_000), min_size=3, max_size=100, unique=True))
def test_time_cuts_give_the_wanted_shares_in_time_order(starts):
    split = SplitConfig(valid=0.2, test=0.1)
    cuts_s = histogram(starts, 65_536).find_cuts(split)
    names = [assign_split("", start, split, 0, cuts_s) for start in sorted(starts)]
    assert names == sorted(names, key=["train", "valid", "test"].index)
    counts = [names.count(name) for name in ("train", "valid", "test")]
    assert min(counts) >= 1
    if len(starts) >= 20:
        assert abs(counts[0] - 0.7 * len(starts)) <= 0.5 and abs(counts[2] - 0.1 * len(starts)) <= 0.5


def test_sessions_of_one_moment_stay_together():
    split = SplitConfig()
    cuts_s = histogram([5] * 50 + [6] * 30 + [7] * 20, 65_536).find_cuts(split)
    assert cuts_s == (6, 7)
    assert histogram([5, 5], 65_536).find_cuts(split) == (6, 6)
    assert StartHistogram().find_cuts(split) == (0, 0)


@pytest.mark.parametrize("seed", [1, 2])
def test_random_split_depends_on_session_id_and_seed_only(seed):
    split = SplitConfig(by="random", valid=0.3, test=0.1)
    ids = [f"s{number}" for number in range(20_000)]
    names = [assign_split(name, 0, split, seed) for name in ids]
    assert names == [assign_split(name, random.randrange(9), split, seed) for name in ids]
    # Five standard deviations of a share of 20,000.
    assert abs(names.count("valid") / 20_000 - 0.3) < 0.0163 and abs(names.count("test") / 20_000 - 0.1) < 0.0107
    other = [assign_split(name, 0, split, seed + 1) for name in ids]
    assert 0.4 < sum(a == b for a, b in zip(names, other)) / 20_000 < 0.52  # .3² + .1² + .6² = .46
