"""Sums of products in other notations: einsum, inner and outer products, operators on whole matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence

from anywidth.groups.flow import Flow
from anywidth.groups.operators.ordering import whole
from anywidth.groups.operators.pairs import contract_in_pairs
from anywidth.groups.operators.registry import Call, Result, operator
from anywidth.groups.value import Operand, Value

__all__: list[str] = []


@operator("aten.einsum")
def einsum(flow: Flow, call: Call) -> Result:
    """Einsum; a repeated letter in one operand is a diagonal, whose dimensions cannot be narrowed."""
    values: Sequence[Value] = list(call.args[1])
    terms, right = _axis_names(call.args[0].replace(" ", ""), values)
    operands = []
    for value, term in zip(values, terms, strict=True):
        twice = {dim for dim, axis_name in enumerate(term) if term.count(axis_name) > 1}
        if twice:
            flow.freeze(value, f"diagonal at {flow.where}", dims=twice)
            value = Value(value.shape, [f for f in flow.label_arrays(value) if all(f.shape[d] == 1 for d in twice)])
            once = [dim for dim, axis_name in enumerate(term) if axis_name not in term[:dim]]
            shape = tuple(value.shape[dim] for dim in once)
            value = Value(shape, [f.reshape([f.shape[dim] for dim in once]) for f in value.label_arrays])
            term = [term[dim] for dim in once]
        operands.append(Operand(value, tuple(term)))
    return Value(call.shape, contract_in_pairs(flow, operands, right, call.argument(2, "path")))


def _axis_names(equation: str, values: Sequence[Value]) -> tuple[list[list[object]], list[object]]:
    """One letter per dimension of every operand and of the result; numbers represent those of an ellipsis."""
    left, arrow, right = equation.partition("->")
    terms, widest = [], 0
    for term, value in zip(left.split(","), values, strict=True):
        before, dots, after = term.partition("...")
        hidden = len(value.shape) - len(before) - len(after) if dots else 0
        widest = max(widest, hidden)
        terms.append([*before, *range(-hidden, 0), *after])
    if arrow:
        before, dots, after = right.partition("...")
        return terms, [*before, *(range(-widest, 0) if dots else ()), *after]
    every = [axis_name for term in terms for axis_name in term if isinstance(axis_name, str)]
    return terms, [*range(-widest, 0), *sorted(axis_name for axis_name in set(every) if every.count(axis_name) == 1)]


@operator("aten.inner", "aten.tensordot")
def inner(flow: Flow, call: Call) -> Result:
    """Products summed over the last dimensions, or over given pairs of them."""
    a, b = call.args[:2]
    if not a.shape or not b.shape:
        return Value(call.shape, flow.elementwise([a, b], call.shape))
    first, second = ([-1], [-1]) if "inner" in flow.operator else (call.args[2], call.args[3])
    left: list[object] = [("a", d) for d in range(len(a.shape))]
    right: list[object] = [("b", d) for d in range(len(b.shape))]
    for one, other in zip(first, second, strict=True):
        right[other % len(right)] = left[one % len(left)]
    out = [axis_name for axis_name in left if axis_name not in right] + [
        axis_name for axis_name in right if axis_name not in left
    ]
    return Value(call.shape, contract_in_pairs(flow, [Operand(a, tuple(left)), Operand(b, tuple(right))], out))


@operator("aten.outer", "aten.ger", "aten.meshgrid", "aten.addr")
def outer(flow: Flow, call: Call) -> Result:
    """One dimension per vector: outer products and grids."""
    vectors = list(call.args[0]) if "meshgrid" in flow.operator else list(call.args[-2:])
    if "meshgrid" in flow.operator and all(vector.shape_follows for vector in vectors):
        return [Value(shape, origin="a tensor made in the forward", shape_follows=True) for shape in call.shapes]
    order = list(range(len(vectors)))
    if "xy" in (call.kwargs.get("indexing"), *call.args[1:2]):
        order[:2] = [1, 0]
    label_arrays = []
    for dim, vector in zip(order, vectors, strict=True):
        shape = [-1 if d == dim else 1 for d in range(len(order))]
        label_arrays += [f.reshape(shape) for f in flow.label_arrays(vector)]
    results = [Value(shape, label_arrays) for shape in call.shapes]
    if "addr" in flow.operator:
        return Value(call.shape, flow.elementwise([call.args[0], results[0]], call.shape))
    return results[0] if len(results) == 1 else results


@operator("aten.addbmm")
def sum_of_products(flow: Flow, call: Call) -> Result:
    """The sum of a batch of matrix products, plus a matrix."""
    bias, a, b = call.args[:3]
    label_arrays = flow.contract([Operand(a, ("b", "m", "k")), Operand(b, ("b", "k", "n"))], ("m", "n"), "matmul")
    return Value(call.shape, flow.elementwise([bias, Value(call.shape, label_arrays)], call.shape))


@operator("aten.linalg_multi_dot", "aten.chain_matmul")
def chain(flow: Flow, call: Call) -> Result:
    """A chain of matrix products, counted from the left."""
    matrices = list(call.args[0])
    product = matrices[0]
    for matrix in matrices[1:]:
        rows = ("m",) if len(product.shape) > 1 else ()
        columns = ("n",) if len(matrix.shape) > 1 else ()
        shape = (*product.shape[: len(rows)], *matrix.shape[1:])
        operands = [Operand(product, (*rows, "k")), Operand(matrix, ("k", *columns))]
        product = Value(shape, flow.contract(operands, (*rows, *columns), "matmul"))
    return product


@operator("aten.cov", "aten.corrcoef")
def covariance(flow: Flow, call: Call) -> Result:
    """Every row of (rows, observations) with every other row."""
    x = call.args[0]
    if len(x.shape) != 2:
        flow.freeze(x, f"observations at {flow.where}")
        return None
    kept = whole(flow, x, {1}, f"observations at {flow.where}")
    rows = [f.reshape(-1) for f in kept.label_arrays if f.shape[1] == 1]
    return Value(call.shape, [shaped for f in rows for shaped in (f.reshape(-1, 1), f.reshape(1, -1))])


@operator("aten.linalg_solve", "aten.linalg_solve_triangular")
def solved(flow: Flow, call: Call) -> Result:
    """Solutions of (..., n, n) for right-hand sides of (..., n, k), separately for every column."""
    matrix, sides = call.args[:2]
    flow.freeze(matrix, f"entries of a matrix at {flow.where}")
    vectors = len(sides.shape) < len(matrix.shape)
    kept = whole(flow, sides, {len(sides.shape) - (1 if vectors else 2)}, f"entries of a matrix at {flow.where}")
    depth = len(call.shape) - len(sides.shape)
    return Value(call.shape, [f.reshape([1] * depth + list(f.shape)) for f in kept.label_arrays])


@operator(
    "aten.linalg_inv", "aten.inverse", "aten.linalg_inv_ex", "aten.linalg_det", "aten.det", "aten.logdet",
    "aten.slogdet", "aten.linalg_slogdet", "aten.linalg_svd", "aten.svd", "aten.linalg_svdvals", "aten.linalg_qr",
    "aten.linalg_eigh", "aten.linalg_eig", "aten.linalg_eigvals", "aten.linalg_eigvalsh", "aten.linalg_cholesky",
    "aten.linalg_cholesky_ex", "aten.cholesky", "aten.diagonal_scatter", "aten.diagflat", "aten.linalg_lstsq",
    "aten.linalg_pinv", "aten.pinverse", "aten.matrix_exp", "aten.linalg_matrix_exp", "aten.linalg_matrix_power",
    "aten.matrix_power", "aten.linalg_matrix_rank", "aten.linalg_cond", "aten.linalg_lu", "aten.linalg_lu_factor",
    "aten.diagonal", "aten.diag_embed", "aten.trace", "aten.diag", "aten.kron", "aten.block_diag",
    "aten.linalg_ldl_factor", "aten.linalg_householder_product", "aten.linalg_diagonal", "aten.linalg_cross",
    "aten.cross", "aten.linalg_tensorinv", "aten.linalg_tensorsolve", "aten.linalg_vander", "aten.cholesky_solve",
    "aten.cholesky_inverse", "aten.triangular_solve", "aten.lu_solve", "aten.linalg_lu_solve", "aten.geqrf",
    "aten.linalg_eigh.eigenvalues", "aten.vander", "aten.cartesian_prod", "aten.combinations",
)  # fmt: skip
def matrices(flow: Flow, call: Call) -> Result:
    """Operators on whole matrices or vectors, where every entry depends on all others; batch labels pass through."""
    leading = []
    for value in call.values():
        depth = max(len(value.shape) - 2, 0)
        kept = whole(flow, value, set(range(depth, len(value.shape))), f"entries of a matrix at {flow.where}")
        leading += [f.reshape(f.shape[:depth]) for f in kept.label_arrays if depth and math.prod(f.shape[depth:]) == 1]
    depth = len(call.values()[0].shape) - 2 if call.values() else 0
    return [
        Value(
            s,
            [f.reshape([*f.shape, *[1] * (len(s) - f.ndim)]) for f in leading if f.ndim == depth <= len(s)],
            origin=f"entries of a matrix from {flow.where}",
        )
        for s in call.shapes
    ]
