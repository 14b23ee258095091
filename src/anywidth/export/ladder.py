"""`anywidth.export_ladder`: write several widths to one ONNX file with one copy of the weights."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anywidth.core.errors import ExportError, WidthError
from anywidth.core.files import write_atomically
from anywidth.cost import macs, params
from anywidth.export.check import TOLERANCE, check_program
from anywidth.export.export import Exported
from anywidth.export.formats import format_of
from anywidth.export.onnx_model import LARGEST, content, onnx_model
from anywidth.export.program import DenseProgram, dense_program
from anywidth.export.require import require_onnx
from anywidth.export.session import open_session, runner
from anywidth.export.shared_weights import SharedWeights
from anywidth.supernet import Supernet
from anywidth.widths import check_width

if TYPE_CHECKING:
    import onnx

__all__ = ["WIDTHS_KEY", "WIDTH_INPUT", "export_ladder"]

WIDTH_INPUT = "width"
"""Name of the input that selects the width."""
WIDTHS_KEY = "anywidth.widths"
"""Metadata key of the file's list of widths, as JSON."""


def export_ladder(
    net: Supernet,
    widths: Sequence[float],
    path: str | Path,
    *,
    dynamic_batch: bool = True,
    tolerance: float = TOLERANCE,
) -> Exported:
    """Write several widths to one ONNX file with one copy of the weights and an input that selects the width.

    The file has the inputs of the network and an input `width` (32-bit float, shape (1,)). It runs the widest of its
    widths that is not above that number, or the narrowest. Every width is a branch. Its weights are sliced from the
    shared ones and scaled to its batch norms by operators on constants, which a runtime computes once, when it loads
    the file. After that, a branch equals the file that `export` would write.

    Args:
        net: The supernet, which is not changed.
        widths: Two or more widths, each calibrated.
        path: The file to write.
        dynamic_batch: As in `export`.
        tolerance: As in `export`, for every width.

    Raises:
        UncalibratedError: a width has no up-to-date batch-norm statistics.
        WidthError: a width is out of range, or two are the same network.
        ExportError: the network cannot be exported, or the file computes other outputs.
        MissingExtraError: the packages of the extra `onnx` are not installed.
        CheckpointError: the file cannot be written.

    >>> import tempfile, torch
    >>> from torch import nn
    >>> net = Supernet(nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 2)), torch.randn(1, 4))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = export_ladder(net, [0.25, 0.5, 1.0], Path(folder, "ladder.onnx"))
    >>> written.widths
    ('0.25', '0.5', '1')
    """
    path = Path(path)
    if format_of(path).name != "onnx":
        raise ExportError(
            f"the extension of {path.name!r} is not that of ONNX, the only format for several widths; "
            "end the name in .onnx, or write each width with anywidth.export"
        )
    require_onnx()
    chosen = _distinct(net, widths)
    programs = [dense_program(net, width, dynamic_batch=dynamic_batch) for width in chosen]
    model = _assemble(net, chosen, programs)
    difference = 0.0

    def write_and_check(temporary: Path) -> None:
        nonlocal difference
        temporary.write_bytes(model.SerializeToString())
        session = open_session(temporary)
        for width, dense in zip(chosen, programs, strict=True):
            difference = max(
                difference,
                check_program(
                    dense, runner(session, width=np.array([width], dtype=np.float32)),
                    what=f"width {width:g} of the file", tolerance=tolerance,
                ),
            )  # fmt: skip

    write_atomically(path, write_and_check)
    return Exported(
        path=path,
        format="onnx",
        widths=tuple(f"{width:g}" for width in chosen),
        macs=tuple(macs(net, width) for width in chosen),
        params=tuple(params(net, width) for width in chosen),
        size=path.stat().st_size,
        difference=difference,
    )


def _distinct(net: Supernet, widths: Sequence[float]) -> list[float]:
    chosen = sorted({check_width(width, net.min_width) for width in widths})
    if len(chosen) < 2:
        raise WidthError(f"a ladder needs at least two widths, not {chosen}; for one width, use anywidth.export")
    configs = [net.config(width) for width in chosen]
    for low, high, a, b in zip(chosen, chosen[1:], configs, configs[1:], strict=False):
        if a == b:
            raise WidthError(f"widths {low:g} and {high:g} are the same network after rounding; leave one out")
        if np.float32(low) == np.float32(high):
            raise WidthError(
                f"widths {low!r} and {high!r} are the same 32-bit number, the type of the input; leave one out"
            )
    return chosen


def _assemble(net: Supernet, widths: Sequence[float], programs: Sequence[DenseProgram]) -> onnx.ModelProto:
    from onnx import TensorProto, helper

    configs = [net.config(width) for width in widths]
    branches: list[onnx.GraphProto] = []
    models = [onnx_model(program) for program in programs]
    inputs, outputs = models[-1].graph.input, models[-1].graph.output
    if WIDTH_INPUT in {value.name for value in inputs}:
        raise ExportError(
            f"the network has an input called {WIDTH_INPUT!r}, which the ladder file adds itself; rename it"
        )
    taken = {value.name for value in (*inputs, *outputs)} | {WIDTH_INPUT}
    repeated = Counter(content(initializer) for model in models for initializer in model.graph.initializer)
    weights = SharedWeights(net=net, widest=configs[-1], taken=taken, repeated=repeated)
    for number, (dense, program, config) in enumerate(zip(models, programs, configs, strict=True)):
        branches.append(_branch(dense, weights, weights.recipes(program, config), str(number)))
    nodes = []
    for number, width in enumerate(widths[1:], 1):
        limit = weights.constant(np.array([width], dtype=np.float32))
        nodes.append(helper.make_node("GreaterOrEqual", [WIDTH_INPUT, limit], [f"at_least_{number}"]))
    choice = _choose(branches, 0, [value.name for value in outputs])
    graph = helper.make_graph(
        [*nodes, choice],
        "ladder",
        [*inputs, helper.make_tensor_value_info(WIDTH_INPUT, TensorProto.FLOAT, [1])],
        list(outputs),
        initializer=list(weights.tensors.values()),
    )
    model = helper.make_model(graph, opset_imports=models[-1].opset_import, producer_name="anywidth")
    model.ir_version = models[-1].ir_version
    model.metadata_props.add(key=WIDTHS_KEY, value=json.dumps(list(widths)))
    if model.ByteSize() > LARGEST:
        raise ExportError("the ladder exceeds 2 GiB, the limit of one ONNX file; give fewer widths")
    return model


def _branch(dense: onnx.ModelProto, weights: SharedWeights, recipes: dict, prefix: str) -> onnx.GraphProto:
    """Graph of one width as the body of a branch, with weights made from the shared ones."""
    from onnx import TensorProto, helper

    graph = dense.graph
    names = {value.name: value.name for value in graph.input}
    nodes, own = [], []
    for initializer in graph.initializer:
        start = f"{prefix}.{len(names)}."
        made = weights.nodes(initializer, recipes, start)
        if made is None:
            made = f"{start}own", []
            own.append(TensorProto())
            own[-1].CopyFrom(initializer)
            own[-1].name = made[0]
        names[initializer.name] = made[0]
        nodes += made[1]
    _rename(graph.node, names, prefix)
    outputs = [
        helper.make_value_info(_inner(names, value.name, prefix, nodes), value.type)
        for value in graph.output
    ]  # fmt: skip
    return helper.make_graph([*nodes, *graph.node], f"width_{prefix}", [], outputs, initializer=own)


def _inner(names: dict[str, str], output: str, prefix: str, nodes: list) -> str:
    """Name of a branch's output. It must be computed in the branch, so an input or a constant is passed through."""
    from onnx import helper

    name = names[output]
    if name.startswith(f"{prefix}."):
        return name
    passed = f"{prefix}.{len(names)}.{len(nodes)}.out"
    nodes.append(helper.make_node("Identity", [name], [passed]))
    return passed


def _rename(nodes: Sequence[onnx.NodeProto], names: dict[str, str], prefix: str) -> None:
    """Give every value a short name that is unique in the file, in place, including nested graphs."""
    for node in nodes:
        for place, name in enumerate(node.input):
            node.input[place] = names.get(name, name)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                for tensor in attribute.g.initializer:
                    tensor.name = names.setdefault(tensor.name, f"{prefix}.{len(names)}")
                for value in attribute.g.input:
                    value.name = names.setdefault(value.name, f"{prefix}.{len(names)}")
                _rename(attribute.g.node, names, prefix)
                for value in attribute.g.output:
                    value.name = names.get(value.name, value.name)
        for place, name in enumerate(node.output):
            if name:
                node.output[place] = names.setdefault(name, f"{prefix}.{len(names)}")


def _choose(branches: Sequence[onnx.GraphProto], first: int, names: Sequence[str]) -> onnx.NodeProto:
    """Node that selects one of two or more branches by bisection, to keep the nesting shallow."""
    from onnx import helper

    half = len(branches) // 2
    parts = []
    for start, part in ((first + half, branches[half:]), (first, branches[:half])):
        if len(part) == 1:
            parts.append(part[0])
            continue
        inner = [f"{start}-{start + len(part)}.{name}" for name in names]
        outputs = [helper.make_value_info(n, v.type) for n, v in zip(inner, part[0].output, strict=True)]
        parts.append(helper.make_graph([_choose(part, start, inner)], f"from_{start}", [], outputs))
    wide, narrow = parts
    return helper.make_node("If", [f"at_least_{first + half}"], names, then_branch=wide, else_branch=narrow)
