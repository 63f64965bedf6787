"""An export in a model server (the stand-in of `model_server.py`, in its own process): what clients of the API see."""

import base64
import json
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import grpc
import numpy as np
import pytest
import tensorflow as tf
from running_server import config_text, running_server
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2
from test_serving import VOCABULARY, Export, K, draw_sessions, example, run_config

from fp_tfrs.serving import push, warmup
from fp_tfrs.serving.warmup import predict_request
from pipeline import cli

pytestmark = pytest.mark.e2e
SESSION = [VOCABULARY[1], "unknown", VOCABULARY[5]]
FLAGS = [0, 1, 0]


class Served:
    """A pushed export, loaded here too, and the server that serves it."""

    def __init__(self, folder, server, export, version):
        self.folder, self.server, self.saved, self.version = folder, server, export.saved, version


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served ü")
    export = Export(folder / "made", run_config("fp_simple"))
    version = push.push(export.directory, folder, "m").rsplit("/", 1)[1]
    (folder / "m" / "tmp.12").mkdir()  # no version: a server looks at numbers only
    with running_server(folder, config_text(m=folder / "m")) as server:
        server.wait_for_version(version)
        yield Served(folder, server, export, version)


def events(items=SESSION, flags=FLAGS, signature="recommend"):
    ids = np.array([items], dtype=object)
    return predict_request("m", signature, {"item_id": ids, "is_false_positive": np.array([flags], np.int64)})


def items_of(response):
    return [item.decode() for item in tf.make_ndarray(response.outputs["item_id"])[0]]


def ask(served, path, body=None, status=200):
    return ask_json(f"{served.server.url}{path}", body, status)


def ask_json(url, body=None, status=200):
    """The JSON that REST answers with this status; a body is posted."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(url, data, timeout=60) as response:
            found, answer = response.status, json.load(response)
    except urllib.error.HTTPError as error:
        found, answer = error.code, json.load(error)
    assert found == status, answer
    assert status == 200 or set(answer) == {"error"}
    return answer


def test_the_warmup_is_replayed_before_the_version_is_available(served):
    event = served.server.wait_for_version(served.version)
    n_records = sum(1 for _ in warmup.read(str(served.folder / "m" / served.version / warmup.FILE_NAME)))
    assert event["warmup_requests"] == n_records == 40
    status = served.server.status(get_model_status_pb2.GetModelStatusRequest(model_spec=model_pb2.ModelSpec(name="m")))
    (version,) = status.model_version_status
    assert version.version == int(served.version)
    assert version.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE


def test_strings_go_in_and_come_out_over_grpc(served):
    expected = served.saved.recommend([SESSION], [FLAGS])
    response = served.server.predict(events(), timeout=60)
    assert items_of(response) == expected.item_id[0] and len(expected.item_id[0]) == K
    np.testing.assert_array_equal(tf.make_ndarray(response.outputs["score"]), expected.score)
    assert response.model_spec.version.value == int(served.version)
    serialized = np.array([example(SESSION, FLAGS)], dtype=object)
    by_example = served.server.predict(predict_request("m", "serving_default", {"examples": serialized}), timeout=60)
    assert items_of(by_example) == expected.item_id[0]
    ranked = predict_request("m", "rank", {"target": np.array([VOCABULARY[3]], dtype=object)})
    ranked.MergeFrom(events(signature="rank"))
    rank = tf.make_ndarray(served.server.predict(ranked, timeout=60).outputs["rank"])
    assert rank.tolist() == served.saved.rank([SESSION], [FLAGS], [VOCABULARY[3]]).tolist()


def test_rest_answers_rows_and_columns_alike(served):
    expected = served.saved.recommend([SESSION], [FLAGS])
    row = {"item_id": SESSION, "is_false_positive": FLAGS}
    path = "/v1/models/m:predict"
    rows = ask(served, path, {"signature_name": "recommend", "instances": [row, row]})["predictions"]
    columns = {name: [value] for name, value in row.items()}
    outputs = ask(served, path, {"signature_name": "recommend", "inputs": columns})["outputs"]
    assert [one["item_id"] for one in rows] == 2 * outputs["item_id"] == 2 * expected.item_id
    np.testing.assert_allclose(outputs["score"], expected.score, rtol=1e-7)
    assert outputs["model_version"] == ["version 7"]
    packed = {"b64": base64.b64encode(example(SESSION, FLAGS)).decode()}
    by_version = f"/v1/models/m/versions/{served.version}:predict"
    assert ask(served, by_version, {"instances": [packed]})["predictions"][0]["item_id"] == expected.item_id[0]
    ranked = {**columns, "target": [VOCABULARY[3]]}
    assert ask(served, path, {"signature_name": "rank", "inputs": ranked})["outputs"] == list(
        served.saved.rank([SESSION], [FLAGS], [VOCABULARY[3]])
    )


def test_status_and_metadata_are_told_over_both(served):
    (status,) = ask(served, "/v1/models/m")["model_version_status"]
    assert (status["version"], status["state"], status["status"]["error_code"]) == (served.version, "AVAILABLE", "OK")
    metadata = ask(served, "/v1/models/m/metadata")
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert signatures["recommend"]["inputs"]["item_id"]["dtype"] == "DT_STRING"
    request = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec=model_pb2.ModelSpec(name="m"), metadata_field=["signature_def"]
    )
    answer, by_grpc = served.server.metadata(request), get_model_metadata_pb2.SignatureDefMap()
    answer.metadata["signature_def"].Unpack(by_grpc)
    assert set(by_grpc.signature_def) == set(signatures) >= {"recommend", "rank", "serving_default"}
    assert answer.model_spec.version.value == int(metadata["model_spec"]["version"]) == int(served.version)


def wrong_requests():
    floats, short = events(), events()
    floats.inputs["is_false_positive"].CopyFrom(tf.make_tensor_proto(np.full([1, 3], np.nan, np.float32)))
    short.inputs["is_false_positive"].CopyFrom(tf.make_tensor_proto([[0]], tf.int64))
    numbers, torn, more, less = events(), events(), events(), events()
    numbers.inputs["item_id"].CopyFrom(tf.make_tensor_proto([[1, 2, 3]]))
    torn.inputs["item_id"].string_val.extend([b"x"] * 9)
    more.inputs["price"].CopyFrom(tf.make_tensor_proto([1.0]))
    del less.inputs["is_false_positive"]
    flat = predict_request(
        "m", "recommend", {"item_id": np.array(["a"], object), "is_false_positive": np.zeros(1, int)}
    )
    rubbish = predict_request("m", "serving_default", {"examples": np.array([b"\xff no example"], dtype=object)})
    unknown, other = events(signature="classify"), events()
    other.model_spec.name = "nobody"
    invalid, unready, missing = (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.NOT_FOUND,
    )
    return {
        "NaN for a flag": (floats, invalid),
        "numbers for ids": (numbers, invalid),
        "shapes that differ": (short, invalid),
        "a shape and other values": (torn, invalid),
        "one dimension": (flat, invalid),
        "an unknown input": (more, invalid),
        "an input missing": (less, invalid),
        "no example": (rubbish, invalid),
        "an unknown signature": (unknown, unready),
        "an unknown model": (other, missing),
    }


@pytest.mark.parametrize("name", wrong_requests())
def test_a_wrong_request_gets_an_error_status_and_the_server_lives(served, name):
    request, code = wrong_requests()[name]
    with pytest.raises(grpc.RpcError) as refused:
        served.server.predict(request, timeout=60)
    assert refused.value.code() == code, refused.value
    assert (
        items_of(served.server.predict(events(), timeout=60)) == served.saved.recommend([SESSION], [FLAGS]).item_id[0]
    )


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("m:predict", b'{"instances": [', 400),
        ("m:predict", b"[" * 100_000, 400),
        ("m:predict", b"\xff", 400),
        ("m:predict", {"instances": []}, 400),
        ("m:predict", {"instances": [1], "inputs": [1]}, 400),
        ("m:predict", {"signature_name": "recommend", "inputs": {"item_id": [["a"]]}}, 400),
        (
            "m:predict",
            {"signature_name": "recommend", "inputs": {"item_id": [["a"]], "is_false_positive": [[float("nan")]]}},
            400,
        ),
        (
            "m:predict",
            {"signature_name": "recommend", "inputs": {"item_id": [["a"], ["a", "b"]], "is_false_positive": [[0]]}},
            400,
        ),
        ("m:predict", {"signature_name": "classify", "instances": ["a"]}, 400),
        ("nobody:predict", {"instances": ["a"]}, 404),
        ("m/versions/1:predict", {"instances": ["a"]}, 404),
        ("m/labels/stable:predict", {"instances": ["a"]}, 400),
        ("m:regress", {"instances": ["a"]}, 400),
    ],
)
def test_a_wrong_rest_request_gets_an_error_status_and_the_server_lives(served, path, body, status):
    ask(served, f"/v1/models/{path}", body, status)
    assert ask(served, "/v1/models/m")["model_version_status"][0]["state"] == "AVAILABLE"


def test_huge_requests_are_answered_or_refused_and_the_server_lives(served):
    expected = served.saved.recommend([[VOCABULARY[1]]]).item_id[0]
    long_name = "x" * 10_000_000
    assert items_of(served.server.predict(events([VOCABULARY[1], long_name], [0, 0]), timeout=60)) == expected
    columns = {"item_id": [[VOCABULARY[1], long_name]], "is_false_positive": [[0, 0]]}
    body = {"signature_name": "recommend", "inputs": columns}
    assert ask(served, "/v1/models/m:predict", body)["outputs"]["item_id"] == [expected]
    many = [VOCABULARY[number % 7] for number in range(100_000)]
    answer = items_of(served.server.predict(events(many, [0] * len(many)), timeout=60))
    assert answer == served.saved.recommend([many[-6:]]).item_id[0]


def places(served):
    return (
        ["--model", str(served.folder / "m")],
        ["--url", served.server.url, "--name", "m"],
        ["--grpc", served.server.target, "--name", "m"],
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["--items", f"{VOCABULARY[3]},unknown,{VOCABULARY[9]}", "--fp", "0,0,1", "-k", "4"],
        ["--items", "", "-k", "99"],
        [
            "--items",
            VOCABULARY[3],
            "--allow",
            ",".join([*VOCABULARY[:9], "unknown"]),
            "--deny",
            ",".join(VOCABULARY[2:6]),
        ],
    ],
)
def test_the_command_line_says_the_same_of_a_folder_over_rest_and_over_grpc(served, capsys, arguments):
    said = []
    for place in places(served):
        assert cli.main(["recommend", *place, *arguments]) == 0
        answer = capsys.readouterr()
        remarks = [
            line for line in answer.err.splitlines() if "in the catalogue" not in line
        ]  # which a server does not tell
        said.append((answer.out, remarks))
    assert said[0] == said[1] == said[2] and said[0][0].count("\n") >= 4


def test_the_command_line_names_what_a_server_does_not_have(served, capsys):
    for place in places(served):
        assert cli.main(["recommend", *place, "--items", "a", "--user", "u"]) == 2
        assert capsys.readouterr().err.endswith(" takes no user_id; leave --user out\n")
    for place in places(served)[1:]:
        assert cli.main(["recommend", *place[:-1], "nobody", "--items", "a"]) == 2
        assert "the server has no model nobody at " in capsys.readouterr().err


def test_rest_needs_no_tensorflow(served):
    code = "import sys; from pipeline import cli; cli.main(sys.argv[1:]); sys.exit('tensorflow' in sys.modules)"
    command = [sys.executable, "-c", code, "recommend", *places(served)[1], "--items", "a", "-k", str(K)]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.count("\n") == K


def test_clients_at_once_get_the_answers_of_single_calls(served):
    ask_from_many_clients(served.server, served.saved, n_clients=20, n_requests=10)


def ask_from_many_clients(server, saved, n_clients, n_requests):
    """Each client asks for sessions in an order of its own; every answer is that of a single call."""
    sessions = draw_sessions(25, seed=8)
    single = [saved.recommend([s.item_id], [s.is_false_positive]).item_id[0] for s in sessions]
    requests = [events(list(s.item_id), [int(flag) for flag in s.is_false_positive]) for s in sessions]
    wrong, n_answers = [], []

    def call(client):
        order = np.random.default_rng(client).integers(0, len(sessions), n_requests)
        try:
            for turn in order:
                if items_of(server.predict(requests[turn], timeout=60)) == single[turn]:
                    n_answers.append(1)
        except grpc.RpcError as error:
            wrong.append(error)

    threads = [threading.Thread(target=call, args=(client,)) for client in range(n_clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and len(n_answers) == n_clients * n_requests


def test_a_version_that_cannot_be_loaded_leaves_the_old_one_served(served, tmp_path):
    """Half a version, as a copier leaves it that knows no rename, and one whose warm-up fails."""
    broken, cold = (served.folder / "m" / str(int(served.version) + n) for n in (1, 2))
    for target, name in ((broken, "variables/variables.index"), (cold, warmup.FILE_NAME)):
        copy = shutil.copytree(served.folder / "m" / served.version, tmp_path / target.name)
        (copy / name).write_bytes((copy / name).read_bytes()[:-9])
        copy.rename(target)
        assert served.server.wait_for_version(target.name, "END")["error"]
    answer = served.server.predict(events(), timeout=60)
    assert answer.model_spec.version.value == int(served.version)
