"""Separate ONNX models of the widths of a ladder file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anywidth.core.errors import ExportError
from anywidth.export.ladder import WIDTH_INPUT, WIDTHS_KEY
from anywidth.export.require import require_onnx

if TYPE_CHECKING:
    import onnx

__all__ = ["branches"]

_ON_WEIGHTS = ("Slice", "Gather", "Mul", "Transpose")
"""Operators by which a branch derives its weights from the shared ones; see `anywidth.export.shared_weights`."""


def branches(path: Path) -> dict[float, Callable[[], onnx.ModelProto]]:
    """Functions that build the model of each width of a ladder file, in ascending order, with its weights only.

    Raises:
        ExportError: the file is missing, damaged or not a ladder.
        MissingExtraError: onnx is not installed.
    """
    require_onnx()
    import onnx
    from google.protobuf.message import DecodeError

    if not path.is_file():
        raise ExportError(f"there is no file {path}; write one with anywidth.export_ladder")
    try:
        model = onnx.load(path)
    except (DecodeError, OSError) as error:
        raise ExportError(f"{path} is damaged or not an ONNX file ({error}); export it again") from error
    listed = next((entry.value for entry in model.metadata_props if entry.key == WIDTHS_KEY), None)
    if listed is None:
        raise ExportError(f"{path} has only one width; write a ladder with anywidth.export_ladder")
    widths = json.loads(listed)
    leaves = list(_leaves(model.graph))
    return {width: partial(_model, model, leaf) for width, leaf in zip(widths, leaves, strict=True)}


def _leaves(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graphs of the widths below an `If` node, the narrowest first."""
    choice = graph.node[-1]
    if choice.op_type != "If" or not choice.input[0].startswith("at_least_"):
        yield graph
        return
    parts = {attribute.name: attribute.g for attribute in choice.attribute}
    yield from _leaves(parts["else_branch"])
    yield from _leaves(parts["then_branch"])


def _model(ladder: onnx.ModelProto, leaf: onnx.GraphProto) -> onnx.ModelProto:
    from onnx import helper

    names = {mine.name: its.name for mine, its in zip(leaf.output, ladder.graph.output, strict=True)}
    passed_on = [helper.make_node("Identity", [mine], [its]) for mine, its in names.items()]
    weights, nodes = _cut(ladder, leaf, [*leaf.node, *passed_on])
    graph = helper.make_graph(
        nodes,
        leaf.name,
        [value for value in ladder.graph.input if value.name != WIDTH_INPUT],
        list(ladder.graph.output),
        initializer=weights,
    )
    return _whole(ladder, graph)


def _cut(
    ladder: onnx.ModelProto, leaf: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]
) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    """The weights that some nodes read, and the nodes that do not derive weights from other weights."""
    from onnx import helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    stored = {tensor.name: tensor for tensor in (*ladder.graph.initializer, *leaf.initializer)}
    known, making, rest = set(stored), [], []
    for node in nodes:
        is_constant = node.op_type in _ON_WEIGHTS and known.issuperset(node.input)
        (making if is_constant else rest).append(node)
        if is_constant:
            known.update(node.output)
    read = set(_inputs(rest)) & known
    made = sorted(read - set(stored))
    if not made:
        return [stored[name] for name in sorted(read)], rest
    needed = [stored[name] for name in sorted(set(_inputs(making)) & set(stored))]
    outputs = [helper.make_empty_tensor_value_info(name) for name in made]
    arrays = ReferenceEvaluator(_whole(ladder, helper.make_graph(making, "cut", [], outputs, needed))).run(None, {})
    cut = [numpy_helper.from_array(np.asarray(array), name) for name, array in zip(made, arrays, strict=True)]
    return [*(stored[name] for name in sorted(read & set(stored))), *cut], rest


def _whole(ladder: onnx.ModelProto, graph: onnx.GraphProto) -> onnx.ModelProto:
    from onnx import helper

    model = helper.make_model(graph, opset_imports=ladder.opset_import, producer_name=ladder.producer_name)
    model.ir_version = ladder.ir_version
    return model


def _inputs(nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            yield from _inputs(attribute.g.node)
            yield from (value.name for value in attribute.g.output)
