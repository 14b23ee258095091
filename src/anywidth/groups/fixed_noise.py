"""Give both networks of a proof the same random numbers and the same precision."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.fx import Graph, Node
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["FixedNoise", "needs_fixed_noise"]

_COMPLEX = {torch.float64: torch.complex128, torch.float32: torch.complex64}
_SINGLE = ("fake_quantize", "_fake_quantize", "fused_moving_avg", "_fused_moving_avg")
"""Operators whose scales (all arguments but the first) must be in single precision."""
_STEPS = (0.7548776662, 0.5698402910, 0.8191725134, 0.6710436067, 0.8566748839, 0.7101312069, 0.8826782001)
"""Irrational steps, one per dimension: the number at a position depends on its indices, not on the sizes."""


def needs_fixed_noise(graph: Graph) -> bool:
    """Whether a graph draws random numbers, or computes in several floating-point types."""
    types: set[torch.dtype] = set()
    for node in graph.nodes:
        if isinstance(node.target, torch._ops.OpOverload):
            if torch.Tag.nondeterministic_seeded in node.target.tags and _may_draw(node):
                return True
            asked = node.kwargs.get("dtype")
            if isinstance(asked, torch.dtype) and (asked.is_floating_point or asked.is_complex):
                return True
        value = node.meta.get("val")
        for tensor in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                types.add(tensor.dtype)
    return len(types) > 1


def _may_draw(node: Node) -> bool:
    """Whether an operator that can draw random numbers does so; dropout in evaluation, for example, does not."""
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    given = {a.name: a.default_value for a in target._schema.arguments if a.has_default_value()}
    given |= {a.name: value for a, value in zip(target._schema.arguments, node.args, strict=False)}
    given |= node.kwargs
    if given.get("train", True) is False or given.get("training", True) is False:
        return False
    return "bernoulli" in str(target) or all(given.get(name, 1) != 0 for name in ("p", "dropout", "dropout_p"))


class FixedNoise(TorchDispatchMode):
    """Context manager that replaces random draws by fixed numbers and runs everything in one floating-point type.

    The narrowed network and the masked full one must draw the same numbers for the same channels. So a number depends
    on the operator, on its number of calls, and on the indices of the position among the kept ones. Casts to a
    floating-point type (which models in mixed precision contain), and tensors created in one, use the type of the proof
    instead.

    Args:
        dtype: The floating-point type of the proof.

    >>> with FixedNoise(torch.float64):
    ...     wide = torch.randn(2, 8)
    >>> with FixedNoise(torch.float64):
    ...     narrow = torch.randn(2, 5)
    >>> bool((wide[:, :5] == narrow).all()), wide.half().dtype
    (True, torch.float16)
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.masks: Sequence[Tensor] = ()
        """Masks of the tensor that is being computed, at full width."""
        self._calls: Counter[str] = Counter()

    def __enter__(self) -> FixedNoise:
        self._default = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)  # tensors created without a type
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.set_default_dtype(self._default)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        dtype = kwargs.get("dtype")
        if dtype is not None and (dtype.is_floating_point or dtype.is_complex):
            kwargs = {**kwargs, "dtype": self.dtype if dtype.is_floating_point else _COMPLEX[self.dtype]}
        if torch.Tag.nondeterministic_seeded in func.tags:
            return self._draw(func, args, kwargs)
        name = func.overloadpacket.__name__
        if name.startswith(_SINGLE):
            args = tuple(
                a.float() if isinstance(a, Tensor) and a.dtype == torch.float64 and i else a for i, a in enumerate(args)
            )
        try:
            return func(*args, **kwargs)
        except RuntimeError:
            # Constants of the model keep their types, which some operators cannot mix with the type of the proof.
            cast = pytree.tree_map_only(Tensor, self._cast, (args, kwargs))
            pairs = zip(pytree.tree_leaves(cast), pytree.tree_leaves((args, kwargs)), strict=True)
            if name.endswith("_") or "out" in kwargs or all(a is b for a, b in pairs):
                raise
            return func(*cast[0], **cast[1])

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def _draw(self, func: Any, args: Any, kwargs: Any) -> Any:
        packet = str(func.overloadpacket).removeprefix("aten.")
        # `x.normal_()` in the narrowed network is the same in the graph, and so are `randn` and `randn.generator`.
        name = packet.rstrip("_").removesuffix("_like")
        self._calls[name] += 1
        if name == "native_dropout":
            return self._dropout(*args, **kwargs)
        if name == "rrelu_with_noise":
            return self._slopes(packet.endswith("_"), *args, **kwargs)
        if name == "randperm":
            result = torch.empty(args[0], dtype=kwargs.get("dtype") or torch.int64, device=kwargs.get("device"))
            return result.copy_(torch.arange(args[0]).roll(self._calls[name]))
        if name == "multinomial":
            return _likeliest(*args[:2], replacement=args[2] if len(args) > 2 else kwargs.get("replacement", False))
        make = _DRAWS.get(name)
        if make is None:
            return self._seeded(func, args, kwargs)
        result = self._empty(func, packet, args, kwargs)
        uniform = self._uniform(name, result.shape)
        return result.copy_(make(uniform, packet, args, kwargs))

    def _empty(self, func: Any, packet: str, args: Any, kwargs: Any) -> Tensor:
        """The destination of the numbers: the tensor itself, or a new one."""
        if packet.endswith("_"):
            return args[0]
        out = kwargs.get("out")
        if out is not None:
            return out
        with torch.random.fork_rng(devices=[]):  # the shape and type that the operator would return
            return func(*args, **kwargs)

    def _seeded(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result of any other operator, from a fixed seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(sum(self._calls.values()))
            return func(*args, **kwargs)

    def _dropout(self, x: Tensor, p: float, train: bool | None = None) -> tuple[Tensor, Tensor]:
        if train is False or p == 0:
            return x.clone(), torch.ones_like(x, dtype=torch.bool)
        kept = self._uniform("native_dropout", x.shape) >= p
        return x * kept / max(1 - p, 1e-12), kept

    def _slopes(
        self, in_place: bool, x: Tensor, noise: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, *rest: Any
    ) -> Tensor:
        training = bool(rest and rest[0])
        drawn = lower + (upper - lower) * self._uniform("rrelu_with_noise", x.shape)
        slopes = drawn if training else torch.full_like(drawn, (lower + upper) / 2)
        noise.copy_(torch.where(x > 0, torch.ones_like(slopes), slopes))
        result = x * noise
        return x.copy_(result) if in_place else result

    def _uniform(self, name: str, shape: Sequence[int]) -> Tensor:
        """Numbers in (0, 1) that depend on the call and on the index of each position among the kept ones."""
        phase = torch.tensor(0.5 + 0.3819660113 * self._calls[name] + 0.2360679775 * len(name), dtype=torch.float64)
        for dim, size in enumerate(shape):
            indices = self._indices(dim, len(shape), size)
            step = _STEPS[dim % len(_STEPS)]
            # Not linear in the index: differences of neighbors would all be equal.
            offsets = torch.frac(indices * step + torch.frac(indices.square() * step * 0.6180339887))
            phase = phase.unsqueeze(-1) + offsets
        return torch.frac(torch.frac(phase.abs()) * 997.0).clamp(1e-4, 1 - 1e-4)

    def _indices(self, dim: int, ndim: int, size: int) -> Tensor:
        indices = torch.arange(size, dtype=torch.float64)
        for mask in self.masks:
            if mask.ndim == ndim and mask.shape[dim] == size > 1:
                kept = mask.movedim(dim, 0).reshape(size, -1).any(1)
                indices = (kept.cumsum(0) - 1).clamp(min=0).to(torch.float64)
        return indices


def _likeliest(weights: Tensor, samples: int, *, replacement: bool) -> Tensor:
    if replacement:
        return weights.argmax(-1, keepdim=True).expand(*weights.shape[:-1], samples).contiguous()
    return weights.topk(samples, -1).indices


Draw = Callable[[Tensor, str, Any, Any], Tensor]


def _argument(args: Any, kwargs: Any, index: int, name: str, default: float) -> Any:
    return args[index] if len(args) > index else kwargs.get(name, default)


def _standard(uniform: Tensor, packet: str, args: Any, kwargs: Any) -> Tensor:
    return math.sqrt(2) * torch.erfinv(2 * uniform - 1)


def _normal(uniform: Tensor, packet: str, args: Any, kwargs: Any) -> Tensor:
    first = 1 if packet.endswith("_") else 0  # the first argument is the tensor itself
    mean, spread = _argument(args, kwargs, first, "mean", 0.0), _argument(args, kwargs, first + 1, "std", 1.0)
    return mean + spread * _standard(uniform, packet, args, kwargs)


def _interval(uniform: Tensor, packet: str, args: Any, kwargs: Any) -> Tensor:
    low, high = _argument(args, kwargs, 1, "from", 0.0), _argument(args, kwargs, 2, "to", 1.0)
    return low + (high - low) * uniform


def _integers(uniform: Tensor, packet: str, args: Any, kwargs: Any) -> Tensor:
    """`randint([low,] high, size)`, `randint_like(x, [low,] high)` and `random_([from,] to)`."""
    numbers = [a for a in args if isinstance(a, int) and not isinstance(a, bool)]
    low, high = (numbers if len(numbers) > 1 else [0, *numbers])[:2] if numbers else (0, 2**20)
    return (low + (high - low) * uniform).floor()


def _coins(uniform: Tensor, packet: str, args: Any, kwargs: Any) -> Tensor:
    p = _argument(args, kwargs, 1, "p", 0.5) if packet.endswith("_") or len(args) > 1 or "p" in kwargs else args[0]
    return (uniform < p).to(uniform.dtype)


def _exponential(uniform: Tensor, packet: str, args: Any, kwargs: Any) -> Tensor:
    return -uniform.log() / _argument(args, kwargs, 1, "lambd", 1.0)


def _geometric(uniform: Tensor, packet: str, args: Any, kwargs: Any) -> Tensor:
    return (uniform.log() / math.log1p(-_argument(args, kwargs, 1, "p", 0.5))).ceil()


def _log_normal(uniform: Tensor, packet: str, args: Any, kwargs: Any) -> Tensor:
    mean, spread = _argument(args, kwargs, 1, "mean", 1.0), _argument(args, kwargs, 2, "std", 2.0)
    return (mean + spread * _standard(uniform, packet, args, kwargs)).exp()


def _cauchy(uniform: Tensor, packet: str, args: Any, kwargs: Any) -> Tensor:
    median, sigma = _argument(args, kwargs, 1, "median", 0.0), _argument(args, kwargs, 2, "sigma", 1.0)
    return median + sigma * torch.tan(math.pi * (uniform - 0.5))


def _around(uniform: Tensor, packet: str, args: Any, kwargs: Any) -> Tensor:
    """Counts around a mean tensor (Poisson), up to two standard deviations away from it."""
    return (args[0] + (4 * uniform - 2) * args[0].sqrt()).round().clamp(min=0)


_DRAWS: dict[str, Draw] = {
    "rand": lambda uniform, *_: uniform,
    "randn": _standard,
    "normal": _normal,
    "uniform": _interval,
    "randint": _integers,
    "random": _integers,
    "bernoulli": _coins,
    "exponential": _exponential,
    "geometric": _geometric,
    "log_normal": _log_normal,
    "cauchy": _cauchy,
    "poisson": _around,
}
