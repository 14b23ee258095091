"""Which modules a node of a captured graph belongs to."""

from __future__ import annotations

from torch.fx import Node

__all__ = ["module_path", "module_paths"]


def module_paths(node: Node) -> list[str]:
    """Paths of the modules whose forward calls the operator of a node, the outermost first; the root is ""."""
    return [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]


def module_path(node: Node) -> str:
    """Path of the innermost module whose forward calls the operator of a node; the root is ""."""
    return (module_paths(node) or [""])[-1]
