"""Captured forwards as text, to check whether a model still is the one whose groups were proved."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from anywidth.groups.capture import Capture
from anywidth.groups.module_path import module_path

__all__ = ["attributes_of", "forward_of", "uses_of"]

_IGNORED = {
    "aten.dropout": (1,),  # the probability
    "aten.dropout_": (1,),
    "aten.feature_dropout": (1,),
    "aten.alpha_dropout": (1,),
    "aten.feature_alpha_dropout": (1,),
    "aten.batch_norm": (6, 8),  # the momentum, and whether cuDNN is available
    "aten.instance_norm": (6, 8),
    "aten.group_norm": (5,),
    "aten.layer_norm": (5,),
    "aten.rrelu": (4,),
}
"""Arguments that do not affect what a trained network computes, by operator."""
_PLAIN = (bool, int, float, str)
_TRAINING_ONLY = ("drop", "momentum", "checkpointing", "prob", "seed")
_SKIPPED = ("aten._assert_tensor_metadata", "aten.detach", "aten.lift_fresh_copy", "aten.alias")


def forward_of(capture: Capture) -> tuple[str, ...]:
    """One line per operator of a forward in evaluation mode: module, operator, arguments; constants by their digest.

    Dropout probabilities, momenta, devices and floating-point types are left out, because they may differ.
    """
    lines: list[str] = []
    names: dict[Node, str] = {}
    for node in capture.program.graph.nodes:
        if node.op == "placeholder":
            names[node] = _placeholder(node, capture, len(names))
            continue
        target = str(node.target)
        base = target.rsplit(".", 1)[0]
        if base in _SKIPPED and node.all_input_nodes:
            names[node] = names[node.all_input_nodes[0]]
            continue
        ignored = _IGNORED.get(base, ())
        arguments = [_argument(a, names) for i, a in enumerate(node.args) if i not in ignored]
        arguments += [
            f"{key}={_argument(value, names)}"
            for key, value in node.kwargs.items()
            if key not in ("device", "pin_memory", "layout", "dropout_p")
        ]
        names[node] = f"%{len(names)}"
        lines.append(f"{module_path(node)}: {names[node]} = {target}({', '.join(arguments)})")
    return tuple(lines)


def attributes_of(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The class of every module, and its numbers, strings and flags, without those that only affect training."""
    found: dict[str, dict[str, Any]] = {}
    for path, module in model.named_modules():
        found[path] = {"class": type(module).__name__}
        for name, value in vars(module).items():
            if name != "training" and not name.startswith("_") and not any(word in name for word in _TRAINING_ONLY):
                if isinstance(value, _PLAIN):
                    found[path][name] = value
                elif isinstance(value, (tuple, list)) and len(value) < 16 and all(isinstance(v, _PLAIN) for v in value):
                    found[path][name] = list(value)
    return found


def uses_of(forward: Sequence[str], tensor: str) -> list[tuple[str, str, str]]:
    """Module, operator and arguments of every line that uses a parameter or buffer."""
    found = []
    for line in forward:
        if f"<{tensor}>" in line:
            module, _, rest = line.partition(": ")
            operator, _, arguments = rest.partition(" = ")[2].partition("(")
            found.append((module, operator, arguments))
    return found


def _placeholder(node: Node, capture: Capture, number: int) -> str:
    if node.name in capture.tensors:
        return f"<{capture.tensors[node.name]}>"
    if node.name in capture.constants:
        return f"constant {_digest(capture.constants[node.name])}"
    return f"input {number}"


def _digest(tensor: Tensor) -> str:
    plain = tensor.detach().cpu()
    if plain.is_floating_point():
        plain = plain.double()
    content = plain.contiguous().flatten().view(torch.uint8).numpy().tobytes() if plain.numel() else b""
    return f"{tuple(plain.shape)} {hashlib.sha256(content).hexdigest()[:16]}"


def _argument(value: Any, names: dict[Node, str]) -> str:
    if isinstance(value, Node):
        return names.get(value, "?")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_argument(item, names) for item in value)}]"
    if isinstance(value, torch.dtype):
        return "float" if value.is_floating_point else str(value).removeprefix("torch.")
    if isinstance(value, torch.device):
        return "device"
    return repr(value)
