"""Warm-up: requests of real sessions beside an export, which TensorFlow Serving replays before it serves a version.

TensorFlow sets much up when it is first asked, so that without them the first visitors would wait. In: sessions of the
test split, the latest there are. Out: `assets.extra/tf_serving_warmup_requests`, TFRecords of `PredictionLog`, a
`recommend` and a `serving_default` request for each session. A version whose warm-up fails is not served, so that
`probe.py` replays it too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2

from fp_tfrs import storage
from fp_tfrs.data.sessions import Session
from fp_tfrs.serving.request import Request
from fp_tfrs.serving.saved_model import SavedModel

FILE_NAME = "assets.extra/tf_serving_warmup_requests"  # where TensorFlow Serving looks for it
MOST_RECORDS = 1_000  # TensorFlow Serving refuses a version with more
SESSIONS = 100  # on a large catalogue a request takes tens of milliseconds, and a version waits for all of them


def write(directory: Path, model: SavedModel, name: str, sessions: Sequence[Session]) -> None:
    """Writes the warm-up of the export in `directory`: of the first SESSIONS sessions, without their last events.

    Args:
        directory: of the SavedModel; assets.extra is there.
        model: the same, loaded; it says which inputs it takes.
        name: of the model, as a server will know it.
        sessions: real sessions of raw item ids.
    """
    with tf.io.TFRecordWriter(str(directory / FILE_NAME)) as writer:
        for session in sessions[:SESSIONS]:
            request = _before_last(session)
            inputs = model.request_inputs("recommend", [request])
            examples = np.array([request.to_example()], dtype=object)
            for asked in (
                predict_request(name, "recommend", inputs),
                predict_request(name, "serving_default", {"examples": examples}),
            ):
                log = prediction_log_pb2.PredictLog(request=asked)
                writer.write(prediction_log_pb2.PredictionLog(predict_log=log).SerializeToString())


def _before_last(session: Session) -> Request:
    end = max(len(session.item_id) - 1, 1)
    return Request(
        session.item_id[:end],
        [int(flag) for flag in session.is_false_positive[:end]],
        session.user_id,
        session.history_item_id,
        session.unclicked_before(end),
    )


def predict_request(name: str, signature: str, inputs: Mapping[str, np.ndarray]) -> predict_pb2.PredictRequest:
    """What gRPC's Predict takes: the inputs of a signature of a model of this name; arrays of objects are strings."""
    protos = {
        key: tf.make_tensor_proto(value, tf.string if value.dtype == object else None) for key, value in inputs.items()
    }
    return predict_pb2.PredictRequest(
        model_spec=model_pb2.ModelSpec(name=name, signature_name=signature), inputs=protos
    )


def read(path: str) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Signature and inputs of each request of a warm-up file.

    Raises:
        tf.errors.OpError, google.protobuf.message.DecodeError: the file is damaged.
        ValueError: it ends within a record, holds more than MOST_RECORDS, or what is no Predict request.
    """
    if not storage.has_whole_records(path):
        raise ValueError(f"{path} ends within a record")
    for number, record in enumerate(tf.data.TFRecordDataset(path).as_numpy_iterator()):
        if number == MOST_RECORDS:
            raise ValueError(f"more than {MOST_RECORDS} requests")
        log = prediction_log_pb2.PredictionLog.FromString(record)
        if log.WhichOneof("log_type") != "predict_log":
            raise ValueError(f"request {number} is no Predict request")
        request = log.predict_log.request
        yield (
            request.model_spec.signature_name,
            {key: tf.make_ndarray(proto) for key, proto in request.inputs.items()},
        )
