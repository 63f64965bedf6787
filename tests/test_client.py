"""`fp-tfrs recommend` says in one sentence what is wrong with a server; its answers are in `test_model_server.py`."""

import json
import socket
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

from fp_tfrs.serving import client
from fp_tfrs.serving.request import Request
from pipeline import cli


def run(capsys, *arguments):
    code = cli.main(["recommend", *map(str, arguments)])
    return code, *capsys.readouterr()


@pytest.fixture
def odd_server():
    """A port where the answer is what the test puts there: bytes, or nothing for ever."""
    answers, is_over = [], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if not answers:
                is_over.wait(30)
                return
            status, content = answers[0]
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}", answers
    is_over.set()
    server.shutdown()
    server.server_close()
    thread.join()


def assert_sentence(result, code, said):
    assert result[:2] == (code, "") and result[2].count("\n") == 1 and said in result[2], result


@pytest.mark.parametrize(
    ("status", "content", "code", "said"),
    [
        (200, b"<html>", 1, "answers otherwise than TensorFlow Serving does"),
        (200, b'{"metadata": 3}', 1, "answers otherwise than TensorFlow Serving does"),
        (200, b"[]", 1, "answers otherwise than TensorFlow Serving does"),
        (200, b'{"metadata": {"signature_def": {"signature_def": {"predict": {}}}}}', 2, "no signature recommend"),
        (500, b"oh", 1, "fails with HTTP status 500: Internal Server Error"),
        (503, json.dumps({"error": "too\nbusy"}).encode(), 1, "status 503: too busy"),
        (404, b"", 2, "the server has no model m at http://127.0.0.1"),
    ],
)
def test_what_is_no_model_server_is_named_in_one_sentence(odd_server, capsys, status, content, code, said):
    target, answers = odd_server
    answers.append((status, content))
    assert_sentence(run(capsys, "--url", f"http://{target}/", "--name", "m", "--items", "a"), code, said)


def test_a_model_without_the_signature_that_a_request_needs_is_named(odd_server, capsys):
    target, answers = odd_server
    answers.append(
        (200, b'{"metadata": {"signature_def": {"signature_def": {"recommend_among": {"inputs": {"item_id": {}}}}}}}')
    )
    result = run(capsys, "--url", f"http://{target}/", "--name", "m", "--items", "a")
    assert_sentence(
        result, 2, "has no signature recommend, which the request needs; name a model that fp-tfrs exported"
    )


def test_a_server_that_does_not_answer_is_not_waited_for(odd_server, capsys):
    target, _ = odd_server
    late = "did not answer within 0.3 s; ask again, or give it more by --timeout"
    for place in (["--url", f"http://{target}"], ["--grpc", target]):
        assert_sentence(run(capsys, *place, "--name", "m", "--items", "a", "--timeout", "0.3"), 1, late)


def test_nobody_there_is_named(capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    for place in (["--url", f"http://{nobody}"], ["--grpc", nobody]):
        assert_sentence(run(capsys, *place, "--name", "m", "--items", "a"), 1, "cannot be reached: ")


@pytest.fixture
def odd_grpc_server():
    """A port where a model takes items, and answers with the tensors that the test puts there."""
    tensors = {}

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def GetModelMetadata(self, request, context):
            answer, signatures = (
                get_model_metadata_pb2.GetModelMetadataResponse(),
                get_model_metadata_pb2.SignatureDefMap(),
            )
            signatures.signature_def["recommend"].inputs["item_id"].name = "x"
            answer.metadata["signature_def"].Pack(signatures)
            answer.metadata["signature_def"].value += tensors.pop("more bytes", b"")
            return answer

        def Predict(self, request, context):
            answer = predict_pb2.PredictResponse()
            for name, values in tensors.items():
                answer.outputs[name].CopyFrom(tf.make_tensor_proto(values))
            return answer

    server = grpc.server(futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", tensors
    server.stop(None)


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"more bytes": b"\xff"},
        {"item_id": [["a", "b"]], "score": [[1.0]]},
        {"item_id": [["a"]], "score": 1.0},
        {"item_id": np.zeros([0, 1], object), "score": np.zeros([0, 1])},
        {"item_id": [[1]], "score": [[1.0]]},
    ],
)
def test_an_answer_that_is_none_is_named_in_one_sentence(odd_grpc_server, capsys, tensors):
    target, answers = odd_grpc_server
    answers.update(tensors)
    said = "answers otherwise than TensorFlow Serving does"
    assert_sentence(run(capsys, "--grpc", target, "--name", "m", "--items", "a"), 1, said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--url", "localhost:8501", "--name", "m"], "as http://host:8501"),
        (["--url", "http://localhost:port", "--name", "m"], "as http://host:8501"),
        (["--url", "ftp://localhost", "--name", "m"], "as http://host:8501"),
        (["--grpc", "localhost", "--name", "m"], "as host:8500"),
        (["--grpc", "http://localhost:8500", "--name", "m"], "as host:8500"),
        (["--url", "http://localhost:8501"], "--name is the model's name on a server"),
        (["--model", "folder", "--name", "m"], "--name is the model's name on a server"),
        (["--url", "http://localhost:8501", "--name", "m", "--timeout", "0"], "--timeout 0: give a number"),
        (["--url", "http://localhost:8501", "--name", "m", "--timeout", "nan"], "--timeout nan: give a number"),
    ],
)
def test_bad_arguments_are_refused_before_anybody_is_asked(capsys, arguments, said):
    assert_sentence(run(capsys, *arguments, "--items", "a"), 2, said)


def test_what_a_model_does_not_know_is_said():
    request = Request(["a", "x"], [0, 0], allowed_item_id=["y"])
    assert client.remarks(request, 2, 2, frozenset("ab")) == [
        "1 of 2 ids of --items are not in the catalogue, such as 'x'",
        "1 of 1 ids of --allow are not in the catalogue, such as 'y'",
    ]
    assert client.remarks(request, 1, 2, None) == [
        "1 items are all that is left by serving.top_k, serving.exclude_seen, --allow and --deny"
    ]
    assert client.remarks(Request(["a"], [0]), 2, 2, frozenset("ab")) == []
