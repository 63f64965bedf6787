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
