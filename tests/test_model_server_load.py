"""A model server (the stand-in) under load: many clients, a new version meanwhile, memory; and models of other kinds."""

import threading

import grpc
import pytest
from running_server import config_text, running_server
from test_model_server import FLAGS, SESSION, ask_from_many_clients, events, items_of
from test_serving import Export, run_config
from test_serving_context import ITEMS, USERS
from test_serving_context import Export as ContextExport

from fp_tfrs.serving import push
from pipeline import cli

pytestmark = pytest.mark.e2e
SDM = {"name": "sdm", "embedding_dim": 8, "n_heads": 2, "has_users": True, "has_history": True}


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Two models of different answers."""
    return [
        Export(tmp_path_factory.mktemp("exported"), run_config(method, top_k=top_k))
        for method, top_k in (("vanilla", 10), ("fp_simple", 7))
    ]


def test_10000_requests_of_20_clients_are_answered_right_and_leave_the_memory_as_it_was(
    exports, tmp_path, record_figure
):
    version = push.push(exports[0].directory, tmp_path, "m").rsplit("/", 1)[1]
    with running_server(tmp_path, config_text(m=tmp_path / "m")) as server:
        server.wait_for_version(version)
        ask_from_many_clients(server, exports[0].saved, n_clients=20, n_requests=250)
        before = server.resident_bytes()
        ask_from_many_clients(server, exports[0].saved, n_clients=20, n_requests=500)
        grown = server.resident_bytes() / before - 1
        record_figure(
            "20 clients × 500 requests to a server", f"0 errors, answers of single calls, memory {grown:+.1%}", "+2 %"
        )
        assert grown < 0.02


def test_a_new_version_takes_over_under_load_and_no_request_fails(exports, tmp_path):
    first = push.push(exports[0].directory, tmp_path, "m").rsplit("/", 1)[1]
    answers, failures, is_over = [], [], threading.Event()

    def call(server):
        while not is_over.is_set():
            try:
                response = server.predict(events(), timeout=60)
            except grpc.RpcError as error:
                failures.append(error)
            else:
                answers.append((str(response.model_spec.version.value), items_of(response)))

    with running_server(tmp_path, config_text(m=tmp_path / "m")) as server:
        server.wait_for_version(first)
        threads = [threading.Thread(target=call, args=(server,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        second = push.push(exports[1].directory, tmp_path, "m").rsplit("/", 1)[1]
        server.wait_for_version(first, "END")
        n_answers = len(answers)
        while len(answers) < n_answers + 100 and not failures:
            is_over.wait(0.01)
        is_over.set()
        for thread in threads:
            thread.join()
    assert failures == []
    versions = [version for version, _ in answers]
    assert set(versions) == {first, second} and set(versions[-50:]) == {second}
    expected = {
        version: export.saved.recommend([SESSION], [FLAGS]).item_id[0]
        for version, export in zip((first, second), exports, strict=True)
    }
    assert all(items == expected[version] for version, items in answers)


@pytest.mark.parametrize(
    "context", [[], ["--user", USERS[1]], ["--user", "stranger", "--history", f"{ITEMS[2]},{ITEMS[6]},unknown"]]
)
def test_users_and_histories_reach_a_server_as_they_reach_a_folder(served_context, capsys, context):
    folder, server = served_context
    said = []
    for place in (
        ["--model", str(folder)],
        ["--url", server.url, "--name", "c"],
        ["--grpc", server.target, "--name", "c"],
    ):
        assert cli.main(["recommend", *place, "--items", f"{ITEMS[3]},{ITEMS[1]}", *context]) == 0
        said.append(capsys.readouterr())
    assert said[0] == said[1] == said[2] and said[0].out.count("\n") > 4


@pytest.fixture(scope="module")
def served_context(tmp_path_factory):
    folder = tmp_path_factory.mktemp("context")
    directory = ContextExport(folder, {"method": "fp_simple", "tower": SDM}).directory
    version = push.push(directory, folder, "c").rsplit("/", 1)[1]
    with running_server(folder, config_text(c=folder / "c")) as server:
        server.wait_for_version(version)
        yield folder / "c", server
