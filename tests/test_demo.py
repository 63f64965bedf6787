"""The page's server: what a model answers with and without marks is what NumPy says, and nobody else gets an answer."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest
from tried_model import HOSTILE, ITEMS, LONG, POPULARITY, SESSIONS, TABLE, ranks, serving, write_export

from fp_tfrs.data.sessions import Session
from fp_tfrs.demo import explaining, samples, server
from fp_tfrs.demo.content import Content
from fp_tfrs.errors import InputError
from fp_tfrs.serving.request import Request
from pipeline import cli

PROJECT = Path(__file__).parents[1]
TITLES = {"item_05": "The Fünf", "item_12": "Five <b>& a half</b>", "item_15": "high five"}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("demo") / "tried")


@pytest.fixture(scope="module")
def model(directory):
    return explaining.load(directory)


@pytest.fixture(scope="module")
def address(model, directory):
    with serving(Content([model], samples.from_export(directory), TITLES)) as found:
        yield found


def ask(address, path, method="GET", body=None, **headers):
    """Status, headers and body; a body is sent as JSON unless a header says otherwise."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    if body is not None:
        headers = {"Content-Type": "application/json", **headers}
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    found = answer.status, answer.headers, answer.read()
    connection.close()
    return found


def question(**changes):
    return json.dumps({"item_id": ["item_03", "item_05"], "is_false_positive": [False, True], **changes})


# What changes with a mark, and why.


def test_an_answer_has_the_ranks_with_and_without_the_marks(model):
    request = Request(["item_03", "item_05", "item_04"], [0, 1, 0], target="item_09")
    answer = model.answer(request)
    marked, unmarked = ranks(["item_03", "item_04"]), ranks(["item_03", "item_05", "item_04"])
    assert [one.item_id for one in answer.top] == sorted(ITEMS, key=marked.get)[:10]
    before = sorted(ITEMS, key=unmarked.get)[:10]
    assert [one.item_id for one in answer.fallen] == [item for item in before if marked[item] > 10]
    assert answer.fallen
    for one in (*answer.top, *answer.fallen, answer.target):
        assert (one.rank, one.rank_unmarked) == (marked[one.item_id], unmarked[one.item_id])
    assert answer.target.item_id == "item_09"
    assert not answer.is_popular


def test_likeness_is_the_cosine_with_the_nearest_abandoned_item(model):
    vectors = TABLE / np.linalg.norm(TABLE.astype(float), axis=1, keepdims=True)
    answer = model.answer(Request(["item_03", "item_05", "item_08", "gone"], [0, 1, 1, 1]))
    for one in (*answer.top, *answer.fallen):
        cosines = {
            item: vectors[ITEMS.index(one.item_id)] @ vectors[ITEMS.index(item)] for item in ("item_05", "item_08")
        }
        nearest = max(cosines, key=cosines.get)
        n_below = sum(vectors @ vectors[ITEMS.index(nearest)] < cosines[nearest] - 1e-6)
        assert one.likeness.item_id == nearest
        assert one.likeness.cosine == pytest.approx(cosines[nearest], abs=1e-5)
        assert one.likeness.share_below == n_below / len(ITEMS)


def test_without_marks_nothing_changes_and_nothing_is_explained(model):
    answer = model.answer(Request(["item_03", "item_05"], [0, 0]))
    assert answer.fallen == []
    assert all(one.rank == one.rank_unmarked and one.likeness is None for one in answer.top)


def test_unknown_ids_are_named_once_and_empty_sessions_get_popular_items(model):
    answer = model.answer(Request(["gone", "item_03", "gone"], [0, 1, 1], "", ["lost"], [""], "later"))
    assert answer.unknown == ["gone", "lost", "later"]
    assert answer.target is None
    assert answer.is_popular
    assert [one.item_id for one in answer.top] == [ITEMS[column] for column in np.argsort(-POPULARITY)[:10]]
    assert model.answer(Request([], [])).is_popular


def test_a_folder_of_another_program_is_refused(tmp_path):
    import tensorflow as tf

    tf.saved_model.save(tf.Module(), str(tmp_path))
    with pytest.raises(InputError, match="holds no variable 'candidates'"):
        explaining.load(str(tmp_path))


# Samples.


def test_samples_of_a_log_end_before_the_last_kept_item_and_begin_with_abandoned_ones(model):
    lone = Session("s0", ("item_01", "item_02"), (False, True))  # nothing was kept after the first
    found = samples.from_log([lone, *SESSIONS], model.catalogue, seed=1)
    assert [(request.item_id, request.is_false_positive, request.target) for request in found] == [
        (["item_03", "item_05", "item_04"], [0, 1, 0], "item_07"),
        (["item_01", "item_02"], [0, 0], "item_09"),
    ]
    assert [request.user_id for request in found] == ["u1", "u2"]
    assert found == samples.from_log([*SESSIONS, lone], model.catalogue, seed=1)


def test_samples_beside_an_export_are_real_sessions_without_what_was_put_in(directory, tmp_path):
    found = samples.from_export(directory)
    assert len(found) == len(SESSIONS)
    for request, session in zip(found, SESSIONS, strict=True):
        n = len(request.item_id)
        assert request.item_id == [item for item in session.item_id[:n]]
        assert request.is_false_positive == [int(flag) for flag in session.is_false_positive[:n]]
        assert request.user_id in ("", session.user_id) and request.target == ""
    assert samples.from_export(str(tmp_path)) == []


def test_a_sample_of_a_long_session_is_its_end_and_can_be_asked(model, address):
    items = tuple(f"item_{n % 18:02d}" for n in range(1_502))
    unclicked = tuple((item, 0, len(items)) for item in items)
    long = Session("s", items, (False,) * len(items), "u", history_item_id=items, unclicked=unclicked)
    (sample,) = samples.from_log([long], model.catalogue, seed=1)
    assert (sample.item_id, sample.target) == ([*items[501:1_501]], items[1_501])
    assert [*sample.history_item_id] == [*sample.unclicked_item_id] == [*items[:1_000]]
    lists = sample._asdict()
    asked = {name: lists[name] for name in ("item_id", "is_false_positive", "history_item_id", "unclicked_item_id")}
    asked["is_false_positive"] = list(map(bool, asked["is_false_positive"]))
    assert ask(address, "/api/recommendations", "POST", json.dumps(asked))[0] == 200


# The server.


def test_the_page_and_its_files_are_served_with_strict_headers(address):
    for path, kind in {"/": "text/html", "/page.js": "javascript", "/page.css": "text/css", "/icon.svg": "svg"}.items():
        status, headers, body = ask(address, path)
        assert status == 200 and body
        assert kind in headers["Content-Type"]
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Access-Control-Allow-Origin"] is None


def test_items_are_found_by_id_and_title_whatever_the_case(address):
    def search(text):
        return json.loads(ask(address, f"/api/items?{urlencode({'text': text})}")[2])

    assert search("FÜNF") == {"items": ["item_05"], "n_found": 1, "titles": {"item_05": "The Fünf"}}
    assert search(" five ")["items"] == ["item_12", "item_15"]  # what begins with it first
    assert search("high")["items"] == ["item_15"]
    assert (len(search("item_")["items"]), search("item_")["n_found"]) == (20, len(ITEMS) - 2)
    assert search("script>")["items"] == [HOSTILE]
    assert search("x" * 20_000)["items"] == [LONG]
    assert search("  ")["items"] == search("nothing")["items"] == []


def test_recommendations_come_with_titles(address):
    status, _, body = ask(address, "/api/recommendations", "POST", question())
    assert status == 200
    answer = json.loads(body)
    assert answer["titles"]["item_05"] == "The Fünf"
    marked = ranks(["item_03"])
    assert {one["item_id"]: one["rank"] for one in answer["models"][0]["top"]} == {
        item: rank for item, rank in marked.items() if rank <= 10
    }


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("{", "cannot be used: Invalid JSON"),
        ("[]", "cannot be used"),
        ("{}", "item_id: Field required"),
        (question(item_id="item_03"), "item_id: "),
        (question(item_id=["a", 7]), "item_id.1: "),
        (question(is_false_positive=[True]), "1 marks for 2 items; send one for each"),
        (question(is_false_positive=[0.5, 7]), "is_false_positive.0: "),
        (question(item_id=["a"] * 1_001), "1000 items"),
        (question(more=1), "more: "),
        ('{"item_id": ["\\ud800"], "is_false_positive": [false]}', "Invalid JSON"),
        (b'{"item_id": ["\xff"], "is_false_positive": [false]}', "cannot be used"),
        ("[" * 100_000, "cannot be used"),
    ],
)
def test_a_bad_question_is_refused_with_a_sentence(address, body, said):
    status, _, answer = ask(address, "/api/recommendations", "POST", body)
    assert status == 400
    sentence = json.loads(answer)["error"]
    assert said in sentence and sentence.endswith(".") and len(sentence) < 400


@pytest.mark.parametrize(
    ("method", "path", "more", "status"),
    [
        ("GET", "/nothing.html", {}, 404),
        ("GET", "/api/nothing", {}, 404),
        ("GET", "/a/b/c", {}, 404),
        ("GET", "/%00", {}, 404),
        ("GET", "/../server.py", {}, 404),
        ("GET", "/..", {}, 403),
        ("GET", "/..%2fserver.py", {}, 404),
        ("GET", "/%2e%2e%2fserver.py", {}, 404),
        ("GET", "/..%5cserver.py", {}, 404),
        ("GET", "/%2fetc%2fpasswd", {}, 404),
        ("GET", "/api/recommendations", {}, 405),
        ("DELETE", "/", {}, 405),
        ("OPTIONS", "/api/recommendations", {"Origin": "http://elsewhere.example"}, 405),
        ("POST", "/api/recommendations", {"body": question(), "Content_Type": "text/plain"}, 415),
        ("POST", "/api/recommendations", {"body": " " * 1_000_001}, 413),
        ("GET", "/", {"Host": "elsewhere.example"}, 403),
        ("GET", "/api/description", {"Host": "127.0.0.1.elsewhere.example:8642"}, 403),
        ("GET", "/page.js", {"Host": "localhost.example"}, 403),
        ("GET", "/nothing.html", {"Host": "elsewhere.example"}, 403),
        ("POST", "/api/recommendations", {"body": question(), "Host": "elsewhere.example"}, 403),
    ],
)
def test_what_is_not_meant_is_refused_with_a_sentence(address, method, path, more, status):
    found, headers, body = ask(address, path, method, **more)
    assert found == status
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    sentence = json.loads(body)["error"]
    assert sentence.endswith(".") and "Traceback" not in sentence


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1:1", "[::1]:8642"])
def test_this_machines_own_names_are_answered(address, host):
    assert ask(address, "/", Host=host)[0] == 200


def test_only_the_loopback_address_is_bound():
    with server.bind(0) as bound:
        host, port = bound.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(InputError, match=rf"--port {port}: Address already in use; give another"):
            server.bind(port)
        with pytest.raises(ConnectionRefusedError):  # every machine on Linux has more than one loopback address
            socket.create_connection(("127.0.0.2", port), timeout=5)
    with pytest.raises(InputError, match="--port 70000"):
        server.bind(70_000)


# The command.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "nowhere"], "--model nowhere is neither an exported model nor"),
        (["--model", "nowhere", "--events", "log.csv"], "--events log.csv: add --config"),
        (["--model", "nowhere", "--titles", "nowhere.yaml"], "nowhere.yaml: No such file"),
        (["--model", "nowhere", "--port", "99999"], "--port 99999"),
    ],
)
def test_what_the_command_cannot_use_is_refused(tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "--port", "0", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.e2e
def test_the_command_serves_a_log_with_titles_until_it_is_interrupted(directory, tmp_path):
    rows = [f"s{s},item_{(s + e) % 9:02d},{1_000_000 + 100 * s + e},{e % 2}" for s in range(60) for e in range(4)]
    log = tmp_path / "events.csv"
    log.write_text("\n".join(["session_id,item_id,timestamp,skip", *rows]))
    (tmp_path / "titles.csv").write_text("id,name\nitem_03,<i>Three</i>\n")
    config = {
        "name": "tried",
        "data": {
            "source": {"format": "csv", "files": ["elsewhere.csv"]},
            "columns": {"session_id": "session_id", "feedback": {"skip": "int"}},
            "false_positive_when": [{"column": "skip", "op": "==", "value": 1}],
            "min_item_support": 1,
        },
    }
    titles = {"source": {"format": "csv", "files": [str(tmp_path / "titles.csv")]}, "item_id": "id", "title": "name"}
    for name, values in (("config", config), ("titles", titles)):
        (tmp_path / f"{name}.yaml").write_text(json.dumps(values))  # JSON is YAML
    options = ["--config", "config.yaml", "--events", str(log), "--titles", "titles.yaml", "--compare", directory]
    command = [sys.executable, "-m", "pipeline.cli", "demo", "--model", directory, "--port", "0", *options]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            address, _, words = process.stdout.readline().partition("/ ")
            assert words == "shows the page; Ctrl-C stops it\n"
            found = json.loads(ask(address, "/api/description")[2])
            assert [model["name"] for model in found["models"]] == ["A · tried/1", "B · tried/1"]
            assert found["models"][0]["kind"] == "fp_simple with stamp"
            assert found["samples"] and all(sample["target"] in ITEMS for sample in found["samples"])
            assert found["titles"]["item_03"] == "<i>Three</i>"
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 0
        finally:
            process.kill()
