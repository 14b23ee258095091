"""The widths of an ONNX ladder file, each as a model of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anywidth.errors import ExportError
from anywidth.export.ladder import WIDTH_INPUT, WIDTHS_KEY
from anywidth.export.require import require_onnx

if TYPE_CHECKING:
    import onnx

__all__ = ["branches"]


def branches(path: Path) -> dict[float, onnx.ModelProto]:
    """One model per width of a ladder file, in ascending order; weights are still to be cut out of the shared ones.

    Raises:
        ExportError: the file is missing, damaged or no ladder.
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
        raise ExportError(f"{path} is damaged or no ONNX file ({error}); export it again") from error
    listed = next((entry.value for entry in model.metadata_props if entry.key == WIDTHS_KEY), None)
    if listed is None:
        raise ExportError(f"{path} has one width only; write a ladder with anywidth.export_ladder")
    widths = json.loads(listed)
    leaves = list(_leaves(model.graph))
    return {width: _model(model, leaf) for width, leaf in zip(widths, leaves, strict=True)}


def _leaves(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graphs of the widths below a choice, the narrowest first."""
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
    nodes = list(leaf.node)
    read = set(_inputs(nodes))
    graph = helper.make_graph(
        [*nodes, *(helper.make_node("Identity", [mine], [its]) for mine, its in names.items())],
        leaf.name,
        [value for value in ladder.graph.input if value.name != WIDTH_INPUT],
        list(ladder.graph.output),
        initializer=[tensor for tensor in ladder.graph.initializer if tensor.name in read],
    )
    model = helper.make_model(graph, opset_imports=ladder.opset_import, producer_name=ladder.producer_name)
    model.ir_version = ladder.ir_version
    return model


def _inputs(nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield from node.input
        for attribute in node.attribute:
            yield from _inputs(attribute.g.node)
            yield from (value.name for value in attribute.g.output)
