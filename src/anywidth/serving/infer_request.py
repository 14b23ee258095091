"""Read inference requests of the Open Inference Protocol: JSON, optionally followed by binary tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError

from anywidth.serving.datatypes import datatype
from anywidth.serving.ladder import TensorSpec
from anywidth.serving.refusal import Refusal

__all__ = ["InferRequest", "WantedOutput", "read_request"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class WantedOutput:
    """A requested output: its position among the network's outputs, and whether to send it as bytes."""

    place: int
    binary: bool


@dataclass(frozen=True, kw_only=True)
class InferRequest:
    """A request that matches the network.

    Attributes:
        id: Identifier to repeat in the answer, if any.
        inputs: Arrays in the network's order, rows first.
        outputs: The requested outputs, all by default.
        width: The requested width, if any.
        budget: The requested budget, if any, such as `latency<=5ms`.
    """

    id: str | None
    inputs: list[Array]
    outputs: tuple[WantedOutput, ...]
    width: float | None
    budget: str | None


class _TensorParameters(BaseModel):
    binary_data_size: Annotated[StrictInt, Field(ge=0)] | None = None


class _Tensor(BaseModel):
    name: StrictStr
    datatype: StrictStr
    shape: list[Annotated[StrictInt, Field(ge=0)]]
    parameters: _TensorParameters = _TensorParameters()
    data: list[Any] | None = None


class _OutputParameters(BaseModel):
    binary_data: StrictBool | None = None
    classification: int | None = None


class _Output(BaseModel):
    name: StrictStr
    parameters: _OutputParameters = _OutputParameters()


class _Parameters(BaseModel):
    binary_data_output: StrictBool = False
    width: StrictFloat | StrictInt | None = None
    budget: StrictStr | None = None


class _Head(BaseModel):
    id: StrictStr | None = None
    inputs: list[_Tensor]
    outputs: list[_Output] = []
    parameters: _Parameters = _Parameters()


def read_request(
    body: bytes, head_length: str | None, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, rows: int
) -> InferRequest:
    """Parse the body of a request.

    Args:
        body: JSON, followed by the bytes of binary tensors.
        head_length: The header `Inference-Header-Content-Length`, if present: the number of bytes of the JSON part.
        inputs: The inputs of the network.
        outputs: The outputs of the network.
        rows: Maximum number of samples in a request.

    Raises:
        Refusal: the request is malformed or does not match the network (status 400).
    """
    split = _head_length(head_length, len(body))
    try:
        head = _Head.model_validate_json(body[:split])
    except ValidationError as error:
        raise Refusal(400, _explain(error)) from None
    found: dict[str, Array] = {}
    offset = split
    for tensor in head.inputs:
        spec = _by_name(inputs, tensor.name, "input")
        if tensor.name in found:
            raise Refusal(400, f"input {tensor.name!r} is given twice")
        _check_shape(tensor, spec, rows)
        size = tensor.parameters.binary_data_size
        if size is None:
            found[tensor.name] = _from_json(tensor, spec)
        else:
            found[tensor.name] = _from_bytes(tensor, spec, body[offset : offset + size], size)
            offset += size
    if offset != len(body):
        raise Refusal(400, f"{len(body) - offset} bytes are left after the tensors; is a binary_data_size wrong?")
    missing = [spec.name for spec in inputs if spec.name not in found]
    if missing:
        raise Refusal(400, f"input {missing[0]!r} is missing")
    arrays = [found[spec.name] for spec in inputs]
    if len({array.shape[0] for array in arrays}) > 1:
        raise Refusal(400, f"inputs have different numbers of rows: {[array.shape[0] for array in arrays]}")
    width = head.parameters.width
    return InferRequest(
        id=head.id,
        inputs=arrays,
        outputs=_outputs(head, outputs),
        width=None if width is None else float(width),
        budget=head.parameters.budget,
    )


def _head_length(text: str | None, size: int) -> int:
    if text is None:
        return size
    if not (text.isascii() and text.isdecimal() and len(text) < 20) or int(text) > size:
        raise Refusal(400, f"Inference-Header-Content-Length is {text!r}, and the body has {size} bytes")
    return int(text)


def _explain(error: ValidationError) -> str:
    """The first problem, on one line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"cannot read the request{f' at {place}' if place else ''}: {first['msg']}"[:500]


def _by_name(specs: Sequence[TensorSpec], name: str, kind: str) -> TensorSpec:
    for spec in specs:
        if spec.name == name:
            return spec
    known = ", ".join(spec.name for spec in specs)
    raise Refusal(400, f"there is no {kind} {name[:100]!r}; the network has {known}")


def _check_shape(tensor: _Tensor, spec: TensorSpec, rows: int) -> None:
    wanted = datatype(spec.dtype)
    if tensor.datatype != wanted:
        raise Refusal(400, f"input {spec.name!r} is {wanted}, not {tensor.datatype[:20]!r}")
    shape = tensor.shape
    fits = len(shape) == len(spec.shape) and all(w in (None, s) for w, s in zip(spec.shape, shape, strict=True))
    if not fits:
        expected = ", ".join("rows" if size is None else str(size) for size in spec.shape)
        raise Refusal(400, f"input {spec.name!r} has shape {str(shape)[:100]}, but the network takes ({expected})")
    if not 1 <= shape[0] <= rows:
        raise Refusal(400, f"input {spec.name!r} has {shape[0]} rows; give 1 to {rows}", reason="rows")


def _from_json(tensor: _Tensor, spec: TensorSpec) -> Array:
    if tensor.data is None:
        raise Refusal(400, f"input {spec.name!r} has neither data nor a binary_data_size")
    kinds = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}[spec.dtype.kind]
    try:
        raw = np.asarray(tensor.data)
    except (ValueError, OverflowError, RecursionError):
        raw = np.asarray(None)
    if raw.dtype.kind not in kinds:
        raise Refusal(400, f"the data of input {spec.name!r} are not a rectangular array of {tensor.datatype} numbers")
    if raw.size != math.prod(tensor.shape) or (raw.ndim != 1 and list(raw.shape) != tensor.shape):
        raise Refusal(400, f"input {spec.name!r} has {raw.size} numbers of shape {raw.shape}, not {tensor.shape}")
    if raw.dtype.kind in "iu" and spec.dtype.kind in "iu":
        bounds = np.iinfo(spec.dtype)
        if raw.size and not bounds.min <= int(raw.min()) <= int(raw.max()) <= bounds.max:
            raise Refusal(400, f"input {spec.name!r} has numbers beyond {tensor.datatype}")
    with np.errstate(over="ignore"):  # numbers that are too large become infinite, which is refused below
        array = raw.astype(spec.dtype).reshape(tensor.shape)
    return _finite(array, spec)


def _from_bytes(tensor: _Tensor, spec: TensorSpec, content: bytes, size: int) -> Array:
    if tensor.data is not None:
        raise Refusal(400, f"input {spec.name!r} has both data and a binary_data_size")
    wanted = math.prod(tensor.shape) * spec.dtype.itemsize
    if size != wanted or len(content) != size:
        raise Refusal(
            400,
            f"input {spec.name!r} of shape {tensor.shape} takes {wanted} bytes; "
            f"binary_data_size is {size}, and {len(content)} bytes are there",
        )
    if spec.dtype.kind == "b" and content.strip(b"\0\1"):
        raise Refusal(400, f"input {spec.name!r} has bytes that are neither 0 nor 1")
    little = spec.dtype.newbyteorder("<")
    return _finite(np.frombuffer(content, little).astype(spec.dtype).reshape(tensor.shape), spec)


def _finite(array: Array, spec: TensorSpec) -> Array:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Refusal(400, f"input {spec.name!r} has values that are not finite {datatype(spec.dtype)} numbers")
    return array


def _outputs(head: _Head, specs: Sequence[TensorSpec]) -> tuple[WantedOutput, ...]:
    default = head.parameters.binary_data_output
    if not head.outputs:
        return tuple(WantedOutput(place=place, binary=default) for place in range(len(specs)))
    wanted: dict[int, WantedOutput] = {}
    for output in head.outputs:
        place = list(specs).index(_by_name(specs, output.name, "output"))
        if output.parameters.classification:
            raise Refusal(400, "classification outputs are not supported; request the numbers")
        if place in wanted:
            raise Refusal(400, f"output {output.name!r} is requested twice")
        binary = output.parameters.binary_data
        wanted[place] = WantedOutput(place=place, binary=default if binary is None else binary)
    return tuple(wanted.values())
