"""Imports go one way, and the package needs nothing but torch to be imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import anywidth

ROOT = Path(anywidth.__file__).parent
# A package may import those of smaller rank; packages of one rank do not import each other.
RANKS = {
    "core": 0, "widths": 1, "data": 2, "groups": 2, "models": 2, "tasks": 2, "supernet": 3, "batchnorm": 4, "cost": 4,
    "training": 5, "evaluation": 5, "export": 6, "search": 6, "serving": 7, "report": 8, "runs": 9, "reproduce": 10, "cli": 11,
}  # fmt: skip


def test_imports_go_one_way() -> None:
    wrong = []
    for file in sorted(ROOT.rglob("*.py")):
        package = file.relative_to(ROOT).parts[0]
        if package in ("__init__.py", "__main__.py"):
            continue
        assert package in RANKS, f"{package} has no place in the order of imports"
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                target = (name or "").split(".")[1:2]
                inside = (name or "").startswith("anywidth.") and target[0] != package
                if inside and RANKS[target[0]] >= RANKS[package]:
                    wrong.append(f"{file.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_the_package_imports_with_torch_alone() -> None:
    code = """
import sys, importlib.abc
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in {"torchvision", "timm", "lightning", "torchmetrics", "safetensors", "sklearn",
                                  "jsonargparse", "rich", "matplotlib", "yaml", "PIL", "onnx", "onnxscript", "onnxruntime", "optuna",
                                  "fastapi", "uvicorn", "starlette", "pydantic", "prometheus_client"}:
            raise ImportError(name)
sys.meta_path.insert(0, Block())
import anywidth
print(anywidth.__version__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == anywidth.__version__, done.stderr
