"""An exported model, called the way a model server calls it: a graph session, tensors by the signature's names.

`tf.saved_model.load` would also answer where a server fails (it runs initialisation code that servers don't), so that
every judgement of an export goes this way. Needs TensorFlow alone: neither TFRS nor Keras nor the training code.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from fp_tfrs import schema, storage
from fp_tfrs.data.vocabulary import read_vocabulary
from fp_tfrs.errors import InputError
from fp_tfrs.serving import scann_index
from fp_tfrs.serving.request import Request

ROWS_PER_CALL = 1024  # longer requests are sent in parts: memory and waiting grow with the rows


class Recommendations(NamedTuple):
    """Answers to B sessions, best item first."""

    item_id: list[list[str]]  # [B, K]; "" where exclude_seen or lists left fewer than K items
    score: np.ndarray  # float32 [B, K]
    model_version: list[str]  # [B]


class SavedModel:
    """The signatures of an exported model as methods; safe to call from several threads."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Loads the SavedModel in `directory`; InputError when there is none or it cannot be loaded.

        RunError when it needs ScaNN, which is not installed.
        """
        self.directory = os.fspath(directory)
        if not tf.saved_model.contains_saved_model(self.directory):
            raise InputError(f"{self.directory} holds no saved_model.pb; give the folder of an exported model")
        graph_path = os.path.join(self.directory, tf.saved_model.SAVED_MODEL_FILENAME_PB)
        with storage.open_to_read(graph_path) as file:
            if f"{scann_index.NAMESPACE}>".encode() in file.read():  # TensorFlow would load it, and fail when asked
                scann_index.register_ops()
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        logger = tf.get_logger()
        level = logger.level
        try:
            logger.setLevel("ERROR")  # the loader advises tf.saved_model.load
            # As long as this is in use, its version is not pruned.
            self._held = storage.hold(graph_path)
            with self._session.graph.as_default():
                meta_graph = tf.compat.v1.saved_model.loader.load(self._session, ["serve"], self.directory)
        except (tf.errors.OpError, RuntimeError, OSError, ValueError) as error:
            raise InputError(
                f"{self.directory} cannot be loaded: {str(error).splitlines()[0]}; export it again"
            ) from error
        finally:
            logger.setLevel(level)
        self._signatures = meta_graph.signature_def

    def call(self, signature: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Feeds the arrays to the signature's inputs of these names; returns its outputs by name.

        Inputs for which the signature has a default may be left out.

        Raises:
            InputError: the model has no such signature or input.
            tf.errors.OpError: the model refuses the values, as a server would.
        """
        if signature not in self._signatures:
            there = ", ".join(sorted(name for name in self._signatures if not name.startswith("__"))) or "none"
            raise InputError(f"{self.directory} has no signature {signature!r}; it has: {there}")
        definition = self._signatures[signature]
        if not set(definition.inputs) - set(definition.defaults) <= set(inputs) <= set(definition.inputs):
            raise InputError(
                f"signature {signature} of {self.directory} takes {', '.join(sorted(definition.inputs))}; "
                f"it was given {', '.join(sorted(inputs))}"
            )
        feeds = {definition.inputs[name].name: value for name, value in inputs.items()}
        try:
            return self._session.run({name: tensor.name for name, tensor in definition.outputs.items()}, feeds)
        except UnicodeDecodeError as error:  # what was refused is quoted in the message, and is no text
            reason = error.object.decode(errors="replace")
            raise tf.errors.InvalidArgumentError(None, None, reason) from error

    def takes(self, signature: str) -> set[str]:
        """The names of a signature's inputs."""
        return set(self._signatures[signature].inputs) if signature in self._signatures else set()

    def recommend(
        self,
        item_id: Sequence[Sequence[str]],
        is_false_positive: Sequence[Sequence[Any]] | None = None,
        user_id: Sequence[str] | None = None,
        history_item_id: Sequence[Sequence[str]] | None = None,
        unclicked_item_id: Sequence[Sequence[str]] | None = None,
        allowed_item_id: Sequence[Sequence[str]] | None = None,
        denied_item_id: Sequence[Sequence[str]] | None = None,
    ) -> Recommendations:
        """Top items for sessions of raw ids, any lengths; an event without a flag counts as kept.

        Users, items of their earlier sessions, latest first, and items that they were shown and did not click, last shown
        first, go to models that have such inputs; others do without. Of allowed items, where a session has any, only those
        are answered, and denied items are not; one row of them counts for all sessions.
        """
        lists = {schema.ALLOWED_ITEM_ID: allowed_item_id, schema.DENIED_ITEM_ID: denied_item_id}
        given = {name: _pad(items, None)[0] for name, items in lists.items() if items is not None}
        signature = "recommend_among" if given else "recommend"
        inputs = self._inputs(signature, item_id, is_false_positive, user_id, history_item_id, unclicked_item_id)
        return _recommendations(self._in_parts(signature, **inputs, **given))

    def recommend_examples(self, serialized: Sequence[bytes]) -> Recommendations:
        """Top items for serialized `tf.train.Example`s with the features of `schema.py`."""
        return _recommendations(self._in_parts("serving_default", examples=np.array(serialized, dtype=object)))

    def rank(
        self,
        item_id: Sequence[Sequence[str]],
        is_false_positive: Sequence[Sequence[Any]] | None,
        target: Sequence[str],
        user_id: Sequence[str] | None = None,
        history_item_id: Sequence[Sequence[str]] | None = None,
        unclicked_item_id: Sequence[Sequence[str]] | None = None,
    ) -> np.ndarray:
        """int64 [n] rank of each target after its session, over the whole catalogue: 1 = best, 0 = not in it."""
        inputs = self._inputs("rank", item_id, is_false_positive, user_id, history_item_id, unclicked_item_id)
        return self._in_parts("rank", **inputs, target=_one_each("target", target))["rank"]

    def answer(self, requests: Sequence[Request], signature: str = "recommend") -> Recommendations:
        """Top items for requests by a signature that takes sessions."""
        return _recommendations(self._in_parts(signature, **self.request_inputs(signature, requests)))

    def rank_targets(self, requests: Sequence[Request]) -> np.ndarray:
        """int64 [n] rank of each request's target, as `rank`."""
        target = np.array([request.target for request in requests], dtype=object)
        return self._in_parts("rank", **self.request_inputs("rank", requests), target=target)["rank"]

    def request_inputs(self, signature: str, requests: Sequence[Request]) -> dict[str, np.ndarray]:
        """What `call` takes for these requests, their targets aside: padded arrays by the inputs' names."""
        inputs = self._inputs(signature, *([request[field] for request in requests] for field in range(5)))
        for name in {schema.ALLOWED_ITEM_ID, schema.DENIED_ITEM_ID} & self.takes(signature):
            inputs[name], _ = _pad([getattr(request, name) for request in requests], None)
        return inputs

    def _inputs(
        self,
        signature: str,
        item_id: Any,
        is_false_positive: Any,
        user_id: Any,
        history_item_id: Any,
        unclicked_item_id: Any,
    ) -> dict[str, np.ndarray]:
        """Padded arrays of what the signature takes."""
        ids, flags = _pad(item_id, is_false_positive)
        inputs = {"item_id": ids, "is_false_positive": flags}
        taken = self.takes(signature)
        if "user_id" in taken:
            inputs["user_id"] = _one_each("user_id", [""] * len(ids) if user_id is None else user_id)
        for name, items in (("history_item_id", history_item_id), ("unclicked_item_id", unclicked_item_id)):
            if name in taken:
                inputs[name], _ = _pad([[]] * len(ids) if items is None else items, None)
        return inputs

    def _in_parts(self, signature: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """`call` for at most ROWS_PER_CALL rows at once, the answers joined.

        Raises:
            InputError: as `call`, or an input has neither a row for each of the first one's nor, if it has a default, one
                for all.
        """
        n_rows = len(next(iter(inputs.values())))
        has_default = self._signatures[signature].defaults if signature in self._signatures else ()
        for name, values in inputs.items():
            if len(values) != n_rows and not (len(values) == 1 and name in has_default):
                for_all = ", or one for all" if name in has_default else ""
                raise InputError(
                    f"{name} has {len(values)} rows, but there are {n_rows} sessions; give one for each{for_all}"
                )
        parts = []
        for start in range(0, max(n_rows, 1), ROWS_PER_CALL):
            rows = slice(start, start + ROWS_PER_CALL)
            parts.append(self.call(signature, **{k: v[rows] if len(v) == n_rows else v for k, v in inputs.items()}))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _pad(item_id: Sequence[Sequence[Any]] | np.ndarray, flags: Any) -> tuple[np.ndarray, np.ndarray]:
    """Sessions as object [B, T] filled up with "", and their flags as int64 [B, T] filled up with 0.

    Raises:
        InputError: a session is no list of texts, or its flags are not its own 0s and 1s.
    """
    if flags is not None and len(flags) > len(item_id):
        raise InputError(
            f"flags for {len(flags)} sessions, but {len(item_id)} sessions; give one list of flags for each"
        )
    for session in item_id:
        if not _is_list(session) or not all(isinstance(item, (str, bytes)) for item in session):
            raise InputError(f"{session!r:.100} is no list of ids as text; give a list for each session: [[…], […]]")
    n_steps = max((len(session) for session in item_id), default=0)
    ids = np.full((len(item_id), n_steps), "", dtype=object)
    padded_flags = np.zeros((len(item_id), n_steps), dtype=np.int64)
    for row, session in enumerate(item_id):
        ids[row, : len(session)] = session
    for row, values in enumerate(() if flags is None else flags):
        if not _is_list(values) or not all(value in (0, 1) for value in values):
            raise InputError(f"{values!r:.100} are no flags; give a list of 0s and 1s for each session: [[…], […]]")
        if len(values) > len(item_id[row]):
            raise InputError(f"{len(values)} flags for {len(item_id[row])} items; give one flag per item, or fewer")
        padded_flags[row, : len(values)] = values
    return ids, padded_flags


def _one_each(name: str, values: Sequence[str]) -> np.ndarray:
    """Ids as object [B]; InputError: they are no list of texts."""
    if not _is_list(values) or not all(isinstance(value, (str, bytes)) for value in values):
        raise InputError(f"{name} {values!r:.100} is no list of ids as text; give one for each session: […]")
    return np.array(values, dtype=object)


def _is_list(values: Any) -> bool:
    return isinstance(values, (Sequence, np.ndarray)) and not isinstance(values, (str, bytes))


def _recommendations(outputs: dict[str, np.ndarray]) -> Recommendations:
    return Recommendations(
        [[item.decode(errors="replace") for item in row] for row in outputs["item_id"]],
        outputs["score"],
        [version.decode() for version in outputs["model_version"]],
    )


def read_catalogue(directory: str | os.PathLike[str]) -> list[str]:
    """The item ids that an exported model can recommend, in the order of its columns: the vocabulary it carries."""
    path = os.path.join(directory, "assets", schema.ITEM_VOCABULARY)
    if not storage.exists(path):
        raise InputError(f"{directory} has no {schema.ITEM_VOCABULARY} in assets/; give an export of fp-tfrs")
    return read_vocabulary(path)


def read_weights(directory: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The weights that an exported model keeps for later trainings, by the names that `exporting.export` was given.

    Raises:
        InputError: there is no exported model, or it keeps none.
    """
    if not tf.saved_model.contains_saved_model(directory):
        raise InputError(f"{directory} holds no saved_model.pb; give the folder of an exported model")
    reader = tf.train.load_checkpoint(os.path.join(directory, "variables", "variables"))
    keys = [key for key in reader.get_variable_to_shape_map() if key.startswith("weights/")]
    if not keys:
        raise InputError(
            f"{directory} keeps no weights to start from, as an older fp-tfrs has exported it; set training.warm_start to "
            "null for one run"
        )
    return {key.split("/")[1]: reader.get_tensor(key) for key in keys}


def list_versions(directory: str | os.PathLike[str]) -> list[str]:
    """Paths of the versions in a model's folder, oldest first; empty when there is no such folder."""
    names = sorted((name for name in storage.list_folder(directory) if name.isdecimal()), key=int)
    paths = [os.path.join(directory, name) for name in names]
    # In an object store a version shows from its first file on; saved_model.pb is the last.
    return paths if storage.is_local(directory) else list(filter(tf.saved_model.contains_saved_model, paths))


def find_version(directory: str, option: str = "--model") -> str:
    """The folder itself when it is an exported model, else its newest version.

    Args:
        option: of the command line, that named the folder.

    Raises:
        InputError: it is neither a model nor a folder of versions.
    """
    if tf.saved_model.contains_saved_model(directory):
        return directory
    versions = list_versions(directory)
    if not versions:
        raise InputError(f"{option} {directory} is neither an exported model nor a folder of versions of one")
    return versions[-1]
