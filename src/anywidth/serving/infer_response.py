"""Write inference responses of the Open Inference Protocol."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from anywidth.serving.batcher import Answer
from anywidth.serving.datatypes import datatype
from anywidth.serving.infer_request import InferRequest
from anywidth.serving.ladder import TensorSpec
from anywidth.serving.refusal import Refusal

__all__ = ["HEAD_LENGTH", "to_json", "write_response"]

HEAD_LENGTH = "Inference-Header-Content-Length"


def to_json(content: Any) -> bytes:
    """JSON in ASCII, so that any text from a client can be repeated."""
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def write_response(
    name: str, version: str, request: InferRequest, answer: Answer, outputs: Sequence[TensorSpec],
    parameters: Mapping[str, Any],
) -> tuple[bytes, dict[str, str]]:  # fmt: skip
    """The body and the headers of a response.

    Raises:
        Refusal: an output is not finite, which JSON cannot represent (status 400).
    """
    described, tail = [], b""
    for wanted in request.outputs:
        array, spec = answer.outputs[wanted.place], outputs[wanted.place]
        entry: dict[str, Any] = {"name": spec.name, "datatype": datatype(array.dtype), "shape": list(array.shape)}
        if wanted.binary:
            content = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
            entry["parameters"] = {"binary_data_size": len(content)}
            tail += content
        else:
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise Refusal(400, f"output {spec.name!r} is not finite for this input; are its values too large?")
            entry["data"] = array.ravel().tolist()
        described.append(entry)
    head: dict[str, Any] = {"model_name": name, "model_version": version}
    if request.id is not None:
        head["id"] = request.id
    head |= {"parameters": dict(parameters), "outputs": described}
    content = to_json(head)
    if not any(wanted.binary for wanted in request.outputs):
        return content, {"Content-Type": "application/json"}
    return content + tail, {"Content-Type": "application/octet-stream", HEAD_LENGTH: str(len(content))}
