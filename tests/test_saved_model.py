"""Calling an export from Python: what is no session is refused in a sentence, before TensorFlow sees it."""

import pytest
from test_serving import Export, run_config

from fp_tfrs.errors import InputError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Export(tmp_path_factory.mktemp("export"), run_config("fp_simple")).saved


@pytest.mark.parametrize(
    ("sessions", "flags", "message"),
    [
        (["a", "b"], None, "'a' is no list of ids as text; give a list for each session"),
        ([["a", 420]], None, r"\['a', 420\] is no list of ids as text"),
        ([["a", "b"]], [0], "0 are no flags; give a list of 0s and 1s"),
        ([["a", "b"]], [[0, 0.9]], r"\[0, 0.9\] are no flags"),
        ([1, 2], None, "1 is no list of ids as text"),
        ([{"a"}], None, r"\{'a'\} is no list of ids"),
        ([["a"]], [[[0]]], r"\[\[0\]\] are no flags"),
        ([["a"]], [[0], [1]], "flags for 2 sessions, but 1 sessions"),
    ],
)
def test_sessions_that_are_none_are_refused_in_a_sentence(model, sessions, flags, message):
    with pytest.raises(InputError, match=message):
        model.recommend(sessions, flags)
    with pytest.raises(InputError, match="no list of ids as text"):
        model.recommend([["a"]], allowed_item_id=["a", "b"])


# More rows than go into one call, so that parts of them could match by chance.
@pytest.mark.parametrize(
    ("n_sessions", "lists", "message"),
    [
        (
            1_536,
            {"denied_item_id": [["a"]] * 512},
            "denied_item_id has 512 rows, but there are 1536 sessions; .*or one for",
        ),
        (2_048, {"allowed_item_id": [["a"]] * 1_024}, "allowed_item_id has 1024 rows, but there are 2048 sessions"),
        (1, {"denied_item_id": [["a"], ["b"]]}, "denied_item_id has 2 rows, but there are 1 sessions"),
        (1, {"target": ["a", "b"]}, "target has 2 rows, but there are 1 sessions; give one for each$"),
        (2, {"target": ["a"]}, "target has 1 rows"),
        (1, {"target": "a"}, "target 'a' is no list of ids as text"),
        (1, {"target": [7]}, r"target \[7\] is no list"),
    ],
)
def test_what_has_not_a_row_for_each_session_is_refused(model, n_sessions, lists, message):
    with pytest.raises(InputError, match=message):
        (model.rank if "target" in lists else model.recommend)([["a"]] * n_sessions, None, **lists)
