"""Asks a model for the next items of a session: one in a folder, or a model server's over REST or gRPC.

In: a `Request`. Out: (item_id, score), best first, and one sentence when something is wrong. REST needs neither TensorFlow
nor anything but the standard library, so that it answers at once.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from google.protobuf.message import Error as ProtobufError

from fp_tfrs import schema
from fp_tfrs.errors import InputError, RunError
from fp_tfrs.serving.request import Request

Answer = list[tuple[str, float]]
SIGNATURES = ("recommend", "recommend_among")


class Client(Protocol):
    """What all of them have."""

    place: str  # of the model, for messages
    takes: set[str]  # names of its inputs
    catalogue: frozenset[str] | None  # the ids that it knows; None: they are not to be had

    def recommend(self, request: Request) -> Answer: ...


class FolderClient:
    """A model on this machine."""

    def __init__(self, directory: str) -> None:
        """Loads the export in the folder, or the newest version below it; InputError when there is none."""
        from fp_tfrs.serving.saved_model import SavedModel, find_version, read_catalogue

        self._model = SavedModel(find_version(directory))
        self.place, self.takes = self._model.directory, set().union(*map(self._model.takes, SIGNATURES))
        self.catalogue: frozenset[str] | None = frozenset(read_catalogue(self.place))

    def recommend(self, request: Request) -> Answer:
        found = self._model.answer([request], request.signature)
        return _answer(found.item_id[0], found.score[0])


class RestClient:
    """A model server's REST interface."""

    catalogue: frozenset[str] | None = None

    def __init__(self, url: str, name: str, timeout_s: float) -> None:
        """Asks the server which inputs the model takes.

        Args:
            url: of the server, `http://host:8501`.
            name: of the model there.
            timeout_s: for each of the server's answers.

        Raises:
            InputError: no URL, or no model of this name, or none of ours. RunError: the server does not answer.
        """
        try:
            parts = urllib.parse.urlsplit(url)
            is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            is_url = False
        if not is_url:
            raise InputError(f"--url {url}: give the server's address, as http://host:8501")
        self._url = f"{url.rstrip('/')}/v1/models/{urllib.parse.quote(name, safe='')}"
        self._timeout_s, self.place = timeout_s, f"model {name} at {url}"
        answer = self._ask("/metadata")
        with self._as_expected():
            signatures = answer["metadata"]["signature_def"]["signature_def"]
            self._inputs = {name: set(signatures[name]["inputs"]) for name in SIGNATURES if name in signatures}
        self.takes = set().union(*self._inputs.values())
        _check_signature(self)

    def recommend(self, request: Request) -> Answer:
        # In a tensor without elements a server could not see what kind it is; "" is no item.
        ids, flags = list(request.item_id), list(request.is_false_positive)
        values: dict[str, Any] = {
            schema.ITEM_ID: [ids or [""]],
            schema.IS_FALSE_POSITIVE: [flags or [0]],
            schema.USER_ID: [request.user_id],
            schema.HISTORY_ITEM_ID: [list(request.history_item_id) or [""]],
            schema.UNCLICKED_ITEM_ID: [list(request.unclicked_item_id) or [""]],
            schema.ALLOWED_ITEM_ID: [list(request.allowed_item_id) or [""]],
            schema.DENIED_ITEM_ID: [list(request.denied_item_id) or [""]],
        }
        if request.signature not in self._inputs:
            raise InputError(
                f"{self.place} has no signature {request.signature}, which the request needs; name a model that fp-tfrs "
                "exported"
            )
        inputs = {name: value for name, value in values.items() if name in self._inputs[request.signature]}
        answer = self._ask(":predict", {"signature_name": request.signature, "inputs": inputs})
        with self._as_expected():
            items, scores = (answer["outputs"][name][0] for name in ("item_id", "score"))
            if not all(isinstance(item, str) for item in items):
                raise TypeError(f"{items!r:.100} are no ids")
            return _answer(items, map(float, scores))

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=self._timeout_s) as response, self._as_expected():
                return json.load(response)
        except urllib.error.HTTPError as error:
            reason = _error_text(error)
            if error.code == 404:
                raise InputError(f"the server has no {self.place}: {reason}; name one that it serves") from None
            if error.code == 400:
                raise InputError(f"{self.place} refuses the request: {reason}") from None
            raise RunError(
                f"{self.place} fails with HTTP status {error.code}: {reason}; see the server's log"
            ) from None
        except UnicodeError as error:
            raise InputError(f"{self._url} is no address ({error}); mend --url") from None
        except TimeoutError:
            raise _late(self.place, self._timeout_s) from None
        except (OSError, http.client.HTTPException) as error:
            cause = error.reason if isinstance(error, urllib.error.URLError) else error
            if isinstance(cause, TimeoutError):
                raise _late(self.place, self._timeout_s) from None
            raise _unreachable(self.place, getattr(cause, "strerror", None) or cause) from None

    def _as_expected(self) -> contextlib.AbstractContextManager[None]:
        return _as_expected(self.place, "REST")


class GrpcClient:
    """A model server's gRPC interface; asks by serialized Examples, which a server can batch whatever their lengths."""

    catalogue: frozenset[str] | None = None

    def __init__(self, target: str, name: str, timeout_s: float) -> None:
        """As `RestClient`; target: `host:8500`."""
        host, _, port = target.rpartition(":")
        if not host or "/" in target or not port.isdecimal():
            raise InputError(f"--grpc {target}: give the server's address, as host:8500")
        import grpc
        from tensorflow_serving.apis import get_model_metadata_pb2, prediction_service_pb2_grpc

        self._name, self._timeout_s, self.place = name, timeout_s, f"model {name} at {target}"
        self._service = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(target))
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = name
        signatures = get_model_metadata_pb2.SignatureDefMap()
        answer = self._ask(self._service.GetModelMetadata, request)
        with _as_expected(self.place, "gRPC"):
            answer.metadata["signature_def"].Unpack(signatures)
        self.takes = {name for signature in SIGNATURES for name in signatures.signature_def[signature].inputs}
        _check_signature(self)

    def recommend(self, request: Request) -> Answer:
        import numpy as np
        import tensorflow as tf

        from fp_tfrs.serving.warmup import predict_request

        examples = np.array([request.to_example()], dtype=object)
        asked = predict_request(self._name, "serving_default", {"examples": examples})
        outputs = self._ask(self._service.Predict, asked).outputs
        with _as_expected(self.place, "gRPC"):
            items, scores = (tf.make_ndarray(outputs[name])[0] for name in ("item_id", "score"))
            return _answer((item.decode(errors="replace") for item in items), scores)

    def _ask(self, method: Any, request: Any) -> Any:
        import grpc

        try:
            return method(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            code, reason = error.code(), " ".join(error.details().split())[:300]
            if code == grpc.StatusCode.NOT_FOUND:
                raise InputError(f"the server has no {self.place}: {reason}; name one that it serves") from None
            if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION):
                raise InputError(f"{self.place} refuses the request: {reason}") from None
            if code == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise _late(self.place, self._timeout_s) from None
            if code == grpc.StatusCode.UNAVAILABLE:
                raise _unreachable(self.place, reason) from None
            raise RunError(f"{self.place} fails with status {code.name}: {reason}; see the server's log") from None


@contextlib.contextmanager
def _as_expected(place: str, interface: str) -> Iterator[None]:
    """What a server's answer breaks in the block is said of the answer."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError, ProtobufError) as error:
        raise RunError(
            f"{place} answers otherwise than TensorFlow Serving does ({type(error).__name__}: {error}); give the address of "
            f"its {interface} interface"
        ) from None


def _answer(items: Iterable[str], scores: Iterable[float]) -> Answer:
    """Without the places that `exclude_seen` or lists left empty."""
    return [(item, float(score)) for item, score in zip(items, scores, strict=True) if item]


def _check_signature(client: Client) -> None:
    if schema.ITEM_ID not in client.takes:
        raise InputError(
            f"{client.place} has no signature {SIGNATURES[0]} of items; name a model that fp-tfrs exported"
        )


def _late(place: str, timeout_s: float) -> RunError:
    return RunError(f"{place} did not answer within {timeout_s:g} s; ask again, or give it more by --timeout")


def _unreachable(place: str, reason: object) -> RunError:
    return RunError(f"{place} cannot be reached: {reason}; start the server, or mend host and port")


def _error_text(error: urllib.error.HTTPError) -> str:
    """What the server says is wrong."""
    try:
        return " ".join(str(json.load(error)["error"]).split())[:300]
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, RecursionError):
        return str(error.reason)


def remarks(request: Request, n_found: int, k: int, catalogue: frozenset[str] | None) -> list[str]:
    """What a user should know of an answer of n_found items to who asked for k: ids that the model does not know, too few items."""
    lines = []
    asked = {"--items": request.item_id, "--allow": request.allowed_item_id, "--deny": request.denied_item_id}
    for option, items in asked.items():
        unknown = [] if catalogue is None else [item for item in items if item not in catalogue]
        if unknown:
            lines.append(
                f"{len(unknown)} of {len(items)} ids of {option} are not in the catalogue, such as {unknown[0]!r}"
            )
    if n_found < k:
        lines.append(f"{n_found} items are all that is left by serving.top_k, serving.exclude_seen, --allow and --deny")
    return lines
