"""What answers requests, as cases and checks (see `fuzzed_data.py`): an export's signatures, the page's server, the client."""

import contextlib
import io
import logging
import select
import socket
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

import hypothesis.strategies as st
import numpy as np
from fuzzed_data import Parser, refusing
from fuzzed_records import ASKED
from hostile import TEXTS, as_json, byte_strings, value_trees
from model_server_versions import Servable, ServingError
from tried_model import ITEMS, serving, write_export

from fp_tfrs.data.sources import RawRow
from fp_tfrs.demo import explaining
from fp_tfrs.demo.content import Content, Question
from fp_tfrs.serving import batch_steps, client, session_files
from fp_tfrs.serving.request import Request
from fp_tfrs.serving.saved_model import SavedModel

open_things = contextlib.ExitStack()  # the page's server; whoever fuzzes closes it
IDS = [*ITEMS[:6], *(text.encode("utf-8", "surrogatepass").decode(errors="replace") for text in TEXTS)]
REQUEST = Request(ITEMS[:3], [0, 1, 0], "u", ITEMS[3:5], ITEMS[5:7], ITEMS[8], ITEMS[:9], ITEMS[9:11])


def _check_answer(item_id: np.ndarray, score: np.ndarray) -> None:
    """Items of the catalogue, each once, best first; places that are left are empty."""
    for items, scores in zip(item_id, score, strict=True):
        found = [item.decode() for item in items if item]
        assert set(found) <= set(ITEMS) and len(set(found)) == len(found)
        assert np.isfinite(scores[: len(found)]).all() and (np.diff(scores[: len(found)]) <= 0).all()


def signatures(folder: Path) -> Parser:
    """Every signature, as a model server calls it, with inputs of any shape, and serialized Examples."""
    model = Servable(write_export(folder / "signatures", has_unclicked=True))
    names = ("recommend", "recommend_among", "rank")

    def array(values: list[str], shape: list[int]) -> np.ndarray:
        return np.resize(np.array(values or [""], dtype=object), shape)

    def check(case: tuple[str, Any, list[list[int]]]) -> bool:
        name, content, shapes = case
        try:
            if name == "serving_default":
                outputs = model.run(name, {"examples": np.array(content, dtype=object)})
            else:
                inputs = {
                    one: np.resize(np.array([0, 1, -(2**63)]), shape)
                    if one == "is_false_positive"
                    else array(content, shape)
                    for one, shape in zip(sorted(model.signatures[name].inputs), shapes)
                }
                outputs = model.run(name, inputs)
        except ServingError:
            return False
        if name == "rank":
            assert ((outputs["rank"] >= 0) & (outputs["rank"] <= len(ITEMS))).all()
        else:
            _check_answer(outputs["item_id"], outputs["score"])
        return True

    shape = st.sampled_from(
        [[2, 3], [2, 3], [2, 3], [2], [2], [1, 1], [2, 0], [0, 3], [], [0], [2, 3, 1], [1, 200], [3, 3]]
    )
    fit = {"recommend": [[2, 3]] * 2 + [[2, 1], [2]], "rank": [[2, 3]] * 2 + [[2], [2, 1], [2]]}
    texts = st.lists(st.sampled_from(IDS), max_size=6)
    lists = st.lists(shape, min_size=8, max_size=8)
    fitting = [st.tuples(st.just(name), texts, st.just(shapes)) for name, shapes in fit.items()]
    examples = st.lists(byte_strings([REQUEST.to_example()]), max_size=3)
    return Parser(
        st.one_of(
            st.tuples(st.sampled_from(names), texts, lists),
            *fitting,
            st.tuples(st.just("serving_default"), examples, st.just([])),
        ),
        check,
    )


def answers(folder: Path) -> Parser:
    """Rows that batch-recommend takes are answered, whatever is in them."""
    model = SavedModel(write_export(folder / "answers"))

    def check(rows: list[Any]) -> bool:
        parsed = [session_files.parse(RawRow(1, row, "", None)) for row in rows if isinstance(row, dict)]
        asked = [one.request for one in parsed if isinstance(one, session_files.Asked)]
        found = batch_steps.answer(model, asked, 5)
        assert len(found.n_items) == len(found.model_version) == len(asked)
        assert {item.decode() for item in found.item_id} <= set(ITEMS)
        return bool(asked)

    rows = [ASKED, ASKED | {"item_id": ITEMS[:2], "allowed_item_id": None, "denied_item_id": []}]
    return Parser(st.lists(value_trees(rows), min_size=1, max_size=3), check)


def page(folder: Path) -> Parser:
    """The page's server: raw requests, and questions as JSON. It refuses, and never fails."""
    for name in ("tornado.general", "tornado.access"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    content = Content(
        [explaining.load(write_export(folder / "page", has_unclicked=True))], [REQUEST], {ITEMS[1]: "<b>"}
    )
    place = urlsplit(open_things.enter_context(serving(content))).netloc.split(":")
    at = place[0], int(place[1])

    def ask(request: bytes) -> bytes:
        with socket.create_connection(at, timeout=15) as connection:
            answer = b""
            with contextlib.suppress(ConnectionError):
                connection.sendall(request)
                # The server drops what it works at when the other side closes. It waits for the rest of half a request, and
                # after an answer for another request.
                while select.select([connection], [], [], 1)[0] and (block := connection.recv(65_536)):
                    answer += block
                connection.shutdown(socket.SHUT_WR)
                while block := connection.recv(65_536):
                    answer += block
            return answer

    def post(body: bytes) -> bytes:
        head = f"POST /api/recommendations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        return head.encode() + b"\r\nConnection: close\r\n\r\n" + body

    def check(case: bytes) -> bool:
        answer = ask(case)
        status = answer.split(b" ")[1:2]
        assert not answer or status[0][:1] in b"234", answer[:200]
        return status == [b"200"]

    question = {name: value for name, value in REQUEST._asdict().items() if name in Question.model_fields}
    question["is_false_positive"] = [False, True, False]
    get = "GET /{} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    gets = [get.format(path, at[1]).encode() for path in ("", "page.js", "api/description", "api/items?text=item")]
    good = [post(as_json(question)), *gets]
    trees = value_trees([question]).map(as_json).map(post)
    return Parser(st.one_of(trees, byte_strings(good), st.sampled_from(good)), check)


METADATA = {"metadata": {"signature_def": {"signature_def": {name: {"inputs": {
    "item_id": {"dtype": "DT_STRING"}, "is_false_positive": {}, "user_id": {}}} for name in client.SIGNATURES}}}}  # fmt: skip
ANSWER = {"outputs": {"item_id": [["a", "b", ""]], "score": [[2.5, 1, 0]], "model_version": ["v"]}}


def server_answers(folder: Path) -> Parser:
    """What a model server says to the client."""
    del folder

    def check(case: tuple[int, bytes, bytes]) -> bool:
        status, *bodies = case

        def urlopen(request: Any, timeout: float) -> io.BytesIO:
            del timeout
            body = io.BytesIO(bodies.pop(0))
            if status != 200:
                raise urllib.error.HTTPError(request.full_url, status, "reason", None, body)  # type: ignore[arg-type]
            return body

        with refusing("model m at http://h:1") as said, mock.patch("urllib.request.urlopen", urlopen):
            found = client.RestClient("http://h:1", "m", 1.0).recommend(REQUEST)
            assert all(isinstance(item, str) and isinstance(score, float) for item, score in found)
        return not said

    def contents(valid: Any) -> st.SearchStrategy[bytes]:
        return st.one_of(st.just(as_json(valid)), value_trees([valid]).map(as_json), byte_strings([as_json(valid)]))

    status = st.sampled_from([200] * 6 + [400, 404, 500])
    return Parser(st.tuples(status, contents(METADATA), contents(ANSWER)), check)


PARSERS: dict[str, Callable[[Path], Parser]] = {
    "signatures": signatures,
    "answers": answers,
    "page": page,
    "server answers": server_answers,
}
