"""Foreign input as it must not be: valid bytes and values, and what a few edits make of them."""

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

NAMES = ["../../etc/passwd", "/etc/passwd", "..", "a/b", "C:\\x", "x" * 3_000, "item_01", "s1", "$HOME", "~"]
TEXTS = [
    *NAMES,
    "",
    " ",
    "\0",
    "a\nb",
    "\x85",
    "\u2028",
    "\u202eright to left",
    "\ufeffbom",
    "\ud800",
    "é" * 600,
    "<script>alert(1)</script>",
    "{{ 7 * 7 }}",
    "{0.__class__}",
    "%s%n",
    '"',
    "'",
    ",",
    "true",
    "null",
    "NaN",
    "-inf",
    "1e999",
    "1_000",
    "٣",
    "9" * 5_000,
    "0x10",
    "2026-13-45",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59.999999-23:59",
    "2026-11-22T10:00:00Z",
    "2026-W60",
    "99999999999999d",
    "inf",
    "simulated",
    "csv",
    "latest",
]
NUMBERS = [0, -1, 1, 2, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 2**64, 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308]
SPECIAL = [float("nan"), float("inf"), float("-inf")]
OTHERS = [None, True, False, [], {}, [[]], {"a": {"b": [1]}}, [None], ["a", 1], {"": ""}, [0] * 300]
HOSTILE: list[Any] = [*TEXTS, *NUMBERS, *SPECIAL, *OTHERS]

TOKENS = [
    *(text.encode("utf-8", "surrogatepass") for text in TEXTS),
    *(str(number).encode() for number in NUMBERS),
    *b"\n \r \x00 \xff \xfe\xff \xed\xa0\x80 \xc0\xaf : , ; { } [ ] ( ) \" ' # & * ! - ? | > % @ ` \t < \\ =".split(
        b" "
    ),
    b"\r\n",
    b"[" * 2_000,
    b"{a: " * 500,
    b"- " * 500,
    b'{"a":' * 2_000,
    b"!!python/object/apply:os.system [false]",
    b"!!timestamp x",
    b"!!int x",
    b"!!bool x",
    b"2026-99-99",
    b"&a [*a]",
    b"<<: *a",
    b"\x80" * 11,
    b"\xff" * 8,
    b"\x00" * 16,
]
BOMB = "".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 9) if n else 'x'}]\n" for n in range(12))
MERGE_BOMB = "".join(
    f"m{n}: &m{n} {{{'<<: [' + ', '.join([f'*m{n - 1}'] * 9) + ']' if n else 'a: 1'}}}\n" for n in range(9)
)

_EDITS = ("flip", "put", "insert", "insert", "delete", "cut", "repeat", "swap")


def _edit(content: bytes, kind: str, where: int, what: int) -> bytes:
    at = where * (len(content) + 1) // 65_536
    size = 1 + what % 40
    token = TOKENS[what % len(TOKENS)]
    if kind == "flip" and at < len(content):
        return content[:at] + bytes([content[at] ^ (1 << what % 8)]) + content[at + 1 :]
    if kind == "put":
        return content[:at] + token + content[at + len(token) :]
    if kind == "delete":
        return content[:at] + content[at + size :]
    if kind == "cut":
        return content[:at]
    if kind == "repeat":
        return content[: at + size] + content[at:]
    if kind == "swap":
        return content[:at] + content[at + size : at + 2 * size] + content[at : at + size] + content[at + 2 * size :]
    return content[:at] + token + content[at:]


def _edit_all(content: bytes, edits: Iterable[tuple[str, int, int]]) -> bytes:
    for edit in edits:
        content = _edit(content, *edit)
    return content


def byte_strings(valid: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of the valid ones after up to four edits."""
    edit = st.tuples(st.sampled_from(_EDITS), st.integers(0, 65_535), st.integers(0, 65_535))
    return st.builds(_edit_all, st.sampled_from(valid), st.lists(edit, max_size=4))


scalars = st.one_of(
    st.sampled_from(HOSTILE),
    st.sampled_from(HOSTILE),
    st.text(max_size=20),
    st.integers(),
    st.floats(),
    st.binary(max_size=9),
)


def _places(values: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in it, itself excluded."""
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(values, dict):
        items = values.items()
    elif isinstance(values, list):
        items = enumerate(values)
    for key, value in list(items):
        yield values, key
        yield from _places(value)


def _change(values: Any, changes: Iterable[tuple[str, int, Any]]) -> Any:
    values = copy.deepcopy(values)
    for kind, where, new in changes:
        places = list(_places(values))
        if not places:
            return new
        container, key = places[where % len(places)]
        if kind == "delete":
            del container[key]
        elif kind == "wrap":
            container[key] = [container[key]]
        elif kind == "add" and isinstance(container, dict):
            container[new if isinstance(new, str) else key] = copy.deepcopy(new)
        elif kind == "swap":
            other, name = places[(where * 7 + 3) % len(places)]
            container[key] = copy.deepcopy(other[name])
        else:
            container[key] = copy.deepcopy(new)
    return values


def value_trees(valid: Sequence[Any]) -> st.SearchStrategy[Any]:
    """One of the valid trees of dicts and lists with up to three of their values replaced, moved, added or gone."""
    kinds = st.sampled_from(["set", "set", "set", "delete", "wrap", "add", "swap"])
    change = st.tuples(kinds, st.integers(0, 1_000), scalars)
    return st.builds(_change, st.sampled_from(valid), st.lists(change, max_size=3))


def as_json(values: Any) -> bytes:
    """The tree as JSON, whatever is in it."""
    return json.dumps(values, default=str, skipkeys=True).encode()


def rows(valid: Mapping[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """The row with some of its values replaced."""
    return st.dictionaries(st.sampled_from(sorted(valid)), scalars, max_size=3).map(lambda new: {**valid, **new})
