"""Imports go one way, and the package needs nothing but torch to be imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

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


BLOCK = """
import sys, importlib.abc
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(name)
sys.meta_path.insert(0, Block())
"""


def run_without(blocked: set[str], code: str) -> subprocess.CompletedProcess[str]:
    code = f"BLOCKED = {blocked}{BLOCK}{code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_all_names_of_the_package_need_torch_alone() -> None:
    others = {
        "torchvision", "timm", "lightning", "torchmetrics", "safetensors", "sklearn", "jsonargparse", "rich", "matplotlib",
        "yaml", "PIL", "onnx", "onnxscript", "onnxruntime", "optuna", "fastapi", "uvicorn", "starlette", "pydantic",
        "prometheus_client",
    }  # fmt: skip
    code = (
        "import anywidth; print(*(getattr(anywidth, name).__module__ for name in anywidth.__all__ if name != 'errors'))"
    )
    done = run_without(others, code)
    assert done.stdout.split() == [
        getattr(anywidth, name).__module__ for name in anywidth.__all__ if name != "errors"
    ], done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--modl", "x"], "unrecognized arguments: --modl x"),
        (["evaluate", "missing"], "missing is not a run folder"),
        (["export", "missing", "--width", "0.5", "--out", "half.onnx"], "missing is not a run folder"),
        (["train", "--resume", "missing"], "missing is not a run folder"),
    ],
)
def test_wrong_arguments_do_not_wait_for_torch(arguments: list[str], message: str) -> None:
    done = run_without({"torch", "numpy", "lightning"}, f"from anywidth.cli import main; sys.exit(main({arguments}))")
    assert done.returncode == 2, done.stderr
    assert message in done.stderr


def test_libraries_are_imported_only_when_asked_for() -> None:
    code = """
import anywidth, anywidth.data, anywidth.training, anywidth.models, anywidth.export
anywidth.models.build_model('digits', num_classes=10, input_shape=(1, 8, 8))
print({'lightning', 'sklearn', 'torchvision', 'PIL', 'timm', 'onnx'} & set(sys.modules))
print(anywidth.export.__name__, callable(anywidth.export))  # the module does not hide the function
"""
    done = run_without({"nothing"}, code)
    assert done.stdout.splitlines() == ["set()", "export True"], done.stderr
