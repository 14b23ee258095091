"""Names of data types in the Open Inference Protocol."""

from __future__ import annotations

from typing import Any

import numpy as np

from anywidth.serving.ladder import TensorSpec

__all__ = ["datatype", "tensor_metadata"]

_NAMES = {
    np.dtype(np.bool_): "BOOL",
    **{np.dtype(f"uint{bits}"): f"UINT{bits}" for bits in (8, 16, 32, 64)},
    **{np.dtype(f"int{bits}"): f"INT{bits}" for bits in (8, 16, 32, 64)},
    **{np.dtype(f"float{bits}"): f"FP{bits}" for bits in (16, 32, 64)},
}


def datatype(dtype: np.dtype[Any]) -> str:
    """The protocol's name for a NumPy type.

    >>> datatype(np.dtype(np.float32))
    'FP32'
    """
    return _NAMES[dtype]


def tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    """The protocol's metadata of an input or output; a size that is not fixed is -1.

    >>> tensor_metadata(TensorSpec(name="x", dtype=np.dtype(np.float32), shape=(None, 3)))
    {'name': 'x', 'datatype': 'FP32', 'shape': [-1, 3]}
    """
    return {
        "name": spec.name,
        "datatype": datatype(spec.dtype),
        "shape": [-1 if size is None else size for size in spec.shape],
    }
