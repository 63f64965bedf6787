"""REST of the stand-in model server: predict (rows and columns), status and metadata, as api_rest.md of the server says.

In: HTTP requests and the loaded models. Out: JSON, errors as {"error": …} with the HTTP status of their gRPC code.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from model_server_versions import ServingError
from tensorflow_serving.apis import get_model_metadata_pb2, model_pb2

PATH = re.compile(
    r"/v1/models/(?P<name>[^/:]+)(/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?(?P<what>:predict|/metadata)?"
)
HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
}


def refuse(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def to_array(value: Any, dtype: tf.DType, name: str) -> np.ndarray:
    """A JSON value as a tensor; lists of one level must have one length, and leaves the tensor's kind."""
    shape, leaves = [], [value]
    while leaves and isinstance(leaves[0], list):
        lengths = {len(leaf) if isinstance(leaf, list) else -1 for leaf in leaves}
        if len(lengths) > 1:
            raise refuse(f"Encountered list at unexpected size in input {name}")
        shape.append(lengths.pop())
        leaves = [item for leaf in leaves for item in leaf]
    array = np.empty(len(leaves), object if dtype == tf.string else dtype.as_numpy_dtype)
    for place, leaf in enumerate(leaves):
        array[place] = to_leaf(leaf, dtype, name)
    return array.reshape(shape)


def to_leaf(leaf: Any, dtype: tf.DType, name: str) -> Any:
    if dtype == tf.string and isinstance(leaf, str):
        return leaf.encode("utf-8", "surrogatepass")
    if dtype == tf.string and isinstance(leaf, dict) and set(leaf) == {"b64"}:
        try:
            return base64.b64decode(leaf["b64"])
        except (TypeError, binascii.Error) as error:
            raise refuse(f"input {name}: {error}") from error
    is_number = isinstance(leaf, int) and not isinstance(leaf, bool)
    if (dtype.is_integer and is_number and dtype.min <= leaf <= dtype.max) or (
        dtype.is_floating and (is_number or isinstance(leaf, float))
    ):
        return leaf
    raise refuse(
        f"JSON Value: {json.dumps(leaf)[:100]} Type: {type(leaf).__name__} is not of expected type: {dtype.name}"
    )


def to_json(array: np.ndarray, name: str) -> Any:
    if array.dtype != object:
        return array.tolist()

    def encode(value: Any) -> Any:
        if isinstance(value, list):
            return [encode(item) for item in value]
        return {"b64": base64.b64encode(value).decode()} if name.endswith("_bytes") else value.decode()

    return encode(array.tolist())


class Handler(BaseHTTPRequestHandler):
    """A request."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: two would wait for each other's acknowledgement

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, method: Any) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            match = PATH.fullmatch(self.path)
            if match is None:
                raise refuse(f"Malformed request: {self.command} {self.path[:100]}")
            spec = model_pb2.ModelSpec(name=urllib.parse.unquote(match["name"]))
            if match["version"]:
                spec.version.value = min(int(match["version"]), 2**63 - 1)
            elif match["label"]:
                spec.version_label = match["label"]
            status, answer = 200, method(spec, match["what"], body)
        except ServingError as error:
            status, answer = HTTP_STATUS.get(error.code, 500), {"error": error.message}
        content = json.dumps(answer, indent=1).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _get(self, spec: model_pb2.ModelSpec, what: str | None, _: bytes) -> dict[str, Any]:
        if what is None:
            status = self.server.models.named(spec).status(spec)
            answer = json_format.MessageToDict(status, preserving_proto_field_name=True)
            for version in answer["model_version_status"]:  # what is 0 or "" is left out
                version["status"] = {"error_code": "OK", "error_message": "", **version.get("status", {})}
            return answer
        if what != "/metadata":
            raise refuse(f"Malformed request: GET {self.path[:100]}")
        metadata = self.server.models.metadata(spec)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        metadata.metadata["signature_def"].Unpack(signatures)
        model_spec = json_format.MessageToDict(metadata.model_spec, preserving_proto_field_name=True)
        as_json = json_format.MessageToDict(signatures, preserving_proto_field_name=True)
        return {"model_spec": model_spec, "metadata": {"signature_def": as_json}}

    def _post(self, spec: model_pb2.ModelSpec, what: str | None, body: bytes) -> dict[str, Any]:
        if what != ":predict":
            raise refuse(f"Malformed request: POST {self.path[:100]}")
        try:
            request = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise refuse(f"JSON Parse error: {error}") from error
        if not isinstance(request, dict) or ("instances" in request) == ("inputs" in request):
            raise refuse("Request must be an object with one of 'instances' and 'inputs'")
        signature_name = request.get("signature_name", "")
        if not isinstance(signature_name, str):
            raise refuse("'signature_name' key must be a string value.")
        with self.server.models.named(spec).use(spec) as (_, servable):
            dtypes = {name: tf.as_dtype(info.dtype) for name, info in servable.signature(signature_name).inputs.items()}
            columns = self._columns(request, dtypes)
            inputs = {name: to_array(columns[name], dtype, name) for name, dtype in dtypes.items()}
            outputs = servable.run(signature_name, inputs)
        values = {name: to_json(array, name) for name, array in outputs.items()}
        alone = next(iter(values.values())) if len(values) == 1 else None
        if "inputs" in request:
            return {"outputs": values if alone is None else alone}
        rows = [dict(zip(values, row)) for row in zip(*values.values(), strict=True)]
        return {"predictions": rows if alone is None else alone}

    def _columns(self, request: dict[str, Any], dtypes: dict[str, tf.DType]) -> dict[str, Any]:
        """Input name → JSON value; REST wants all inputs, whatever has a default."""
        values = request.get("inputs", request.get("instances"))
        if "instances" in request:
            if not isinstance(values, list) or not values:
                raise refuse("'instances' must be a list with something in it")
            if all(isinstance(row, dict) and set(row) == set(dtypes) for row in values):
                values = {name: [row[name] for row in values] for name in dtypes}
        is_named = isinstance(values, dict) and "b64" not in values
        if not is_named and len(dtypes) == 1:
            return dict.fromkeys(dtypes, values)
        if not is_named or set(values) != set(dtypes):
            raise refuse(f"Missing or unknown named inputs; the signature takes {sorted(dtypes)}")
        return values

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


class Server(ThreadingHTTPServer):
    """REST on the loopback interface; models: what is served."""

    request_queue_size = 128
    models: Any


def listen(models: Any, port: int) -> Server:
    """Answers in threads of its own from now on."""
    server = Server(("127.0.0.1", port), Handler)
    server.models = models
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
