"""Operators of torch between linear layers, one table each: those that leave channels elastic, and those that do not.

An elastic operator has to give the outputs of the full network with dropped channels zeroed (`LOCAL`), or what the
operator computes of fewer channels (`COUNTING`), with the gradients of autograd through slicing. A frozen one names
itself and says why.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import anywidth as aw
from fast import fast_and_slow
from proofs import assert_close, assert_like_slicing, call, configs, kept
from zoo import Case

Operator = Callable[[Tensor], Tensor]
CHANNELS, SAMPLES = 12, 4
EDGES = torch.tensor([0, 1, 2, 3, 0, 2])
BOUNDS = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)
CAUSAL = torch.ones(SAMPLES, SAMPLES).tril().bool()


def _written(x: Tensor, where: object, value: object) -> Tensor:
    result = x.clone()
    result[where] = value  # type: ignore[index]
    return result


def _rows_written(x: Tensor) -> Tensor:
    result = torch.zeros(SAMPLES, x.shape[1], dtype=x.dtype)
    result[0::2], result[1::2] = x[:2], 2 * x[2:]
    return result


def _every(x: Tensor, index: Tensor) -> Tensor:
    return index[:SAMPLES, None].expand(-1, x.shape[1])


# Every channel alone, or sums over channels to which a zero adds nothing.
LOCAL: dict[str, Operator] = {
    "normalize": lambda x: F.normalize(x, dim=-1),
    "normalize over samples": lambda x: F.normalize(x, dim=0),
    "norm": lambda x: x / x.norm(dim=-1, keepdim=True),
    "1-norm": lambda x: F.normalize(x, p=1, dim=1),
    "linalg norm": lambda x: x / torch.linalg.norm(x, dim=-1, keepdim=True),
    "frobenius norm": lambda x: x / torch.linalg.matrix_norm(x),
    "largest norm": lambda x: x / torch.linalg.vector_norm(x, float("inf"), dim=-1, keepdim=True),
    "index add": lambda x: torch.zeros_like(x).index_add(0, EDGES, x[[1, 2, 3, 0, 1, 1]]),
    "index add in place": lambda x: torch.zeros(SAMPLES, x.shape[1], dtype=x.dtype).index_add_(0, EDGES[:4], x),
    "index copy": lambda x: torch.zeros_like(x).index_copy(0, torch.tensor([0, 2]), x[1:3]),
    "index fill": lambda x: x.index_fill(0, torch.tensor([1]), 0.0),
    "index reduce": lambda x: torch.zeros_like(x).index_reduce(0, EDGES[:4], x, "amax"),
    "scatter": lambda x: torch.zeros_like(x).scatter(0, _every(x, EDGES), x),
    "scatter add": lambda x: torch.zeros_like(x).scatter_add(0, EDGES[:4, None].expand_as(x), x),
    "scatter reduce": lambda x: torch.zeros_like(x).scatter_reduce(0, EDGES[:4, None].expand_as(x), x, "amax"),
    "gather": lambda x: x.gather(0, _every(x, EDGES)),
    "gather by rank": lambda x: x.gather(0, x.argsort(0)),
    "take along": lambda x: torch.take_along_dim(x, EDGES[:4, None], 0),
    "index put": lambda x: x.clone().index_put((torch.tensor([0]),), x[1:2]),
    "index put of many": lambda x: x.index_put((EDGES[:2],), 2 * x[:2], accumulate=True),
    "rows by two indices": lambda x: x[None].expand(2, -1, -1)[torch.tensor([0, 1, 0, 1]), EDGES[:4]],
    "masked rows": lambda x: _written(x, torch.tensor([True, False, True, False]), 0.0),
    "masked elements": lambda x: _written(x, x > 0.5, 0.0),
    "assigned rows": _rows_written,
    "slice scatter": lambda x: torch.slice_scatter(x, 2 * x[:2], 0, 1, 3),
    "select scatter": lambda x: torch.select_scatter(x, x[1], 0, 0),
    "copy": lambda x: torch.empty(SAMPLES, x.shape[1], dtype=x.dtype).copy_(x),
    "masked scatter of rows": lambda x: x.masked_scatter(torch.tensor([[True], [False], [True], [False]]), 3 * x[:2]),
    "topk": lambda x: x.topk(2, 0)[0].repeat(2, 1),
    "sort": lambda x: x.sort(0)[0],
    "median": lambda x: x - x.median(0, keepdim=True)[0],
    "mode": lambda x: x - x.mode(0)[0],
    "kth value": lambda x: x - x.kthvalue(2, 0, keepdim=True)[0],
    "quantile": lambda x: x - x.quantile(0.3, 0),
    "several quantiles": lambda x: x - x.quantile(torch.tensor([0.2, 0.5], dtype=x.dtype), 0).sum(0),
    "argmax": lambda x: x.gather(0, x.argmax(0, keepdim=True)).expand_as(x),
    "cumulative maximum": lambda x: x.cummax(0)[0] + x.cummin(0)[0],
    "cumulative log sum": lambda x: torch.logcumsumexp(x, 0),
    "cumulative product": lambda x: x.cumprod(0),
    "difference": lambda x: x.diff(dim=0, prepend=x[:1]),
    "trapezoid": lambda x: x * torch.trapezoid(x, dim=0),
    "buckets": lambda x: x * torch.bucketize(x, BOUNDS),
    "search": lambda x: x * torch.searchsorted(BOUNDS, x),
    "Fourier over samples": lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=0), n=SAMPLES, dim=0),
    "two Fourier transforms": lambda x: torch.fft.fft2(x.view(2, 2, -1), dim=(0, 1)).real.flatten(0, 1),
    "Fourier shift": lambda x: torch.fft.fftshift(x, dim=0),
    "complex numbers": lambda x: torch.view_as_real(torch.complex(x, 2 * x) * 1j).sum(-1),
    "polar": lambda x: torch.polar(x.abs(), x).real,
    "pairs of samples": lambda x: torch.view_as_complex(x.view(2, 2, -1).movedim(1, -1).contiguous()).abs().repeat(2, 1),
    "pairs of channels": lambda x: torch.view_as_complex(x.view(SAMPLES, 2, -1, 2)[:, 0]).abs(),
    "distances": lambda x: x * torch.cdist(x, x).mean(1, keepdim=True),
    "1-distances": lambda x: x * torch.cdist(x[None], x.flip(0)[None], p=1.0)[0].mean(1)[:, None],
    "cosine": lambda x: x * F.cosine_similarity(x, x.flip(0), dim=-1)[:, None],
    "all cosines": lambda x: F.cosine_similarity(x[:, None], x[None], dim=-1) @ x,
    "products of pairs": lambda x: x * torch.linalg.vecdot(x, x.flip(0))[:, None],
    "fake quantisation": lambda x: torch.fake_quantize_per_tensor_affine(x, 0.05, 0, -128, 127),
    "fake quantisation per channel": lambda x: torch.fake_quantize_per_channel_affine(
        x, torch.full((x.shape[1],), 0.05), torch.zeros(x.shape[1], dtype=torch.int32), 1, -128, 127
    ),
    "bilinear pooling": lambda x: torch.einsum("bi,bj->bij", x, x).sum(1),
    "einsum to scalars": lambda x: x * torch.einsum("bi,bi->b", x, x)[:, None],
    "einsum with dots": lambda x: torch.einsum("...i,...i->...", x, x)[..., None] * x,
    "einsum without arrow": lambda x: torch.einsum("bi,ci", x, x) @ x,
    "einsum of a diagonal": lambda x: torch.einsum("bb,bi->bi", x @ x.T, x),
    "tensordot": lambda x: x * torch.tensordot(x, x, ([1], [1])).mean(1, keepdim=True),
    "inner": lambda x: torch.inner(x, x) @ x,
    "outer": lambda x: x @ torch.outer(x[0], x[1]),
    "sum of products": lambda x: torch.addbmm(x, (x @ x.T)[None], x[None]),
    "batched products": lambda x: torch.baddbmm(x[None], (x @ x.T)[None], x[None])[0],
    "chain": lambda x: torch.linalg.multi_dot([x, x.T, x]),
    "solution": lambda x: torch.linalg.solve(x @ x.T + torch.eye(SAMPLES, dtype=x.dtype), x),
    "inverse": lambda x: torch.linalg.inv(x @ x.T + torch.eye(SAMPLES, dtype=x.dtype)) @ x,
    "lerp": lambda x: torch.lerp(x, x.flip(0), 0.3),
    "addcmul": lambda x: torch.addcmul(x, x, x),
    "addcdiv": lambda x: torch.addcdiv(x, x, 1 + x.abs()),
    "causal scores": lambda x: (x @ x.T).masked_fill(~CAUSAL, float("-inf")).softmax(-1) @ x,
    "triangle of scores": lambda x: (x @ x.T).tril() @ x,
    "tile": lambda x: x.tile(2, 1)[:SAMPLES],
    "repeats": lambda x: x.repeat_interleave(torch.tensor([1, 2, 1, 1]), 0, output_size=5)[:SAMPLES],
    "windows": lambda x: x.unfold(0, 2, 1).mean(-1)[[0, 1, 2, 2]],
    "roll": lambda x: x.roll(1, 0),
    "clamp": lambda x: torch.clamp(x, min=-x.abs().mean(0), max=x.abs().amax(0)),
    "no nan": lambda x: x.nan_to_num(),
    "largest and smallest": lambda x: x - x.aminmax(dim=0, keepdim=True)[0],
    "any": lambda x: x * (x > 0).any(0),
    "count": lambda x: x / (1 + x.count_nonzero(0)),
    "expanded": lambda x: x * x.sum(1, keepdim=True).expand(-1, x.shape[1]),
    "error function": lambda x: torch.special.erf(x),
    "floor division": lambda x: x * (x.detach() // 0.5),
    "stack of rows": lambda x: torch.vstack([x, x])[:SAMPLES],
    "rows of a bag": lambda x: F.embedding_bag(EDGES, x, torch.tensor([0, 1, 2, 3])),
    "renormalised": lambda x: x.renorm(2, 0, 1.0),
}  # fmt: skip

# What these compute depends on which channels there are: dropped ones are left out rather than zero.
COUNTING: dict[str, Operator] = {
    "product": lambda x: x * x.prod(1, keepdim=True),
    "least norm": lambda x: x / torch.linalg.vector_norm(x, -float("inf"), dim=-1, keepdim=True),
    "all": lambda x: x * (x > -3).all(1, keepdim=True),
    "range": lambda x: x - x.aminmax(dim=1, keepdim=True)[0],
    "pair distance": lambda x: x * F.pairwise_distance(x, x.flip(0), p=1, keepdim=True),
    "squared error": lambda x: x * F.mse_loss(x, x.flip(0)),
    "divergence": lambda x: x * F.kl_div(x.log_softmax(1), x.flip(0).softmax(1), reduction="batchmean"),
    "masked scatter": lambda x: x.masked_scatter(x > 0, 2 * x),
    "standard deviation": lambda x: x / (1 + x.std(1, keepdim=True, correction=0)),
    "shares": lambda x: x * F.softmin(x, 1),
}

# Whatever depends on the order or the neighbourhood of channels keeps them whole, for that reason.
FROZEN: dict[str, tuple[Operator, str]] = {
    "sort": (lambda x: x.sort(1)[0], "order of channels matters at aten.sort"),
    "topk": (lambda x: x.topk(3, 1)[0], "order of channels matters at aten.topk"),
    "median": (lambda x: x - x.median(1, keepdim=True)[0], "order of channels matters at aten.median"),
    "kth value": (lambda x: x - x.kthvalue(2, 1, keepdim=True)[0], "order of channels matters at aten.kthvalue"),
    "argmax": (lambda x: x * x.argmax(1, keepdim=True), "order of channels matters at aten.argmax"),
    "cumulative sum": (lambda x: x.cumsum(1), "order of channels matters at aten.cumsum"),
    "cumulative maximum": (lambda x: x.cummax(1)[0], "order of channels matters at aten.cummax"),
    "log sum": (lambda x: x.logcumsumexp(1), "order of channels matters at aten.logcumsumexp"),
    "quantile": (lambda x: x - x.quantile(0.5, 1, keepdim=True), "order of channels matters at aten.quantile"),
    "Fourier": (lambda x: torch.fft.fft(x).real, "its channels are mixed at aten.fft_fft"),
    "Fourier of all": (lambda x: torch.fft.fftn(x).real, "its channels are mixed at aten.fft_fftn"),
    "Fourier shift": (lambda x: torch.fft.fftshift(x, dim=1), "shifted at aten.fft_fftshift"),
    "roll": (lambda x: x.roll(1, 1), "shifted at aten.roll"),
    "real parts": (lambda x: torch.view_as_complex(x[:, :2].contiguous()).abs()[:, None], "real and imaginary parts"),
    "gather": (lambda x: x.gather(1, torch.tensor([[0, 3]]).expand(SAMPLES, -1)), "looked up by an index"),
    "index": (lambda x: x[:, EDGES], "looked up by an index"),
    "scatter": (
        lambda x: torch.zeros(SAMPLES, 6, dtype=x.dtype).scatter(1, EDGES.expand(SAMPLES, -1) , x[:, :6]),
        "placed by an index",
    ),
    "inverse": (lambda x: torch.linalg.pinv(x).T, "entries of a matrix at aten.linalg_pinv"),
    "response norm": (
        lambda x: F.local_response_norm(x[:, :, None, None], 3)[..., 0, 0],
        "neighbours are mixed at aten.avg_pool3d",
    ),
    "memory": (lambda x: x.as_strided(x.shape, x.stride()), "read by its place in memory"),
    "cross entropy": (
        lambda x: x * F.cross_entropy(x, torch.zeros(SAMPLES, dtype=torch.long)),
        "classes of a loss at aten.cross_entropy_loss",
    ),
}  # fmt: skip


class Between(nn.Module):
    """Two linear layers, an operator, and a linear layer that reads the result."""

    def __init__(self, operator: Operator) -> None:
        super().__init__()
        self.first, self.before = nn.Linear(6, 8), nn.Linear(8, CHANNELS)
        self.operator = operator
        with torch.no_grad():
            width = operator(torch.randn(SAMPLES, CHANNELS, dtype=torch.float64)).shape[1]
        self.after = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.operator(self.before(F.relu(self.first(x)))))


def prepare(operator: Operator) -> tuple[Case, aw.Supernet]:
    case = Case(
        name="operator",
        build=lambda: Between(operator),
        inputs=lambda: torch.randn(SAMPLES, 6, dtype=torch.float64),
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="only .* of the MACs")
        warnings.filterwarnings("ignore", message="index_reduce")
        return case, aw.Supernet(case.model(), case.example(), divisor=1, min_width=0.2)


def zeroed(net: aw.Supernet, config: aw.WidthConfig) -> nn.Module:
    """The full network with zeros in place of the dropped channels."""
    full = net.extract(1.0)
    with torch.no_grad():
        for layer in ("first", "before"):
            (rows, *_) = kept(net, config, f"{layer}.weight")
            rest = torch.ones(full.get_submodule(layer).weight.shape[0], dtype=torch.bool)
            rest[rows] = False
            full.get_submodule(layer).weight[rest] = 0.0
            full.get_submodule(layer).bias[rest] = 0.0
        columns = torch.ones(full.after.weight.shape[1], dtype=torch.bool)
        columns[kept(net, config, "after.weight")[1]] = False
        full.after.weight[:, columns] = 0.0
    return full


def reasons(net: aw.Supernet) -> dict[str, str | None]:
    return {group.name: group.frozen for group in net.groups}


# One of each kind.
FAST = {
    "normalize", "linalg norm", "index add in place", "index reduce", "scatter", "gather by rank", "index put of many",
    "rows by two indices", "masked elements", "assigned rows", "slice scatter", "masked scatter of rows", "topk",
    "several quantiles", "cumulative log sum", "buckets", "two Fourier transforms", "pairs of channels",
    "1-distances", "all cosines", "fake quantisation per channel", "bilinear pooling", "einsum of a diagonal", "inner",
    "batched products", "solution", "causal scores", "clamp", "rows of a bag", "least norm", "range", "divergence",
    "masked scatter",
}  # fmt: skip
FAST_FROZEN = {"sort", "topk", "cumulative sum", "Fourier", "roll", "real parts", "gather", "memory", "cross entropy"}


@pytest.mark.filterwarnings("ignore:index_reduce:UserWarning")
@pytest.mark.parametrize("name", fast_and_slow(LOCAL, FAST & LOCAL.keys()))
def test_channels_pass_operators_that_leave_them_alone(name: str) -> None:
    case, net = prepare(LOCAL[name])
    assert reasons(net)["before"] is None
    x = case.example(1)
    for config in configs(net, random=2):
        with torch.no_grad():
            assert_close(call(net.subnet(config).eval(), x), call(zeroed(net, config).eval(), x))
        assert_like_slicing(net, config, x, training=False)


@pytest.mark.parametrize("name", fast_and_slow(COUNTING, FAST & COUNTING.keys()))
def test_channels_pass_operators_that_count_them(name: str) -> None:
    case, net = prepare(COUNTING[name])
    assert reasons(net)["before"] is None
    x = case.example(1)
    for config in configs(net, random=2):
        assert_like_slicing(net, config, x, training=False)
        widths = (kept(net, config, f"{layer}.weight")[0] for layer in ("first", "before"))
        with torch.no_grad():
            hidden = x
            for layer, rows in zip(("first", "before"), widths, strict=True):
                full = net.model.get_submodule(layer)
                columns = kept(net, config, f"{layer}.weight")[1]
                hidden = F.linear(hidden, full.weight[rows][:, columns], full.bias[rows])
                hidden = F.relu(hidden) if layer == "first" else hidden
            rows, columns = kept(net, config, "after.weight")
            wanted = F.linear(COUNTING[name](hidden), net.model.after.weight[:, columns], net.model.after.bias)
            assert_close(call(net.subnet(config).eval(), x), wanted)


@pytest.mark.parametrize("name", fast_and_slow(FROZEN, FAST_FROZEN))
def test_operators_that_depend_on_the_order_of_channels_say_so(name: str) -> None:
    operator, reason = FROZEN[name]
    case, net = prepare(operator)
    found = [text for group, text in reasons(net).items() if group.startswith("before") and text is not None]
    assert any(reason in text for text in found), net.summary()
    assert reasons(net)["first"] is None
    x = case.example(1)
    for config in configs(net, random=1):
        assert_like_slicing(net, config, x, training=False)
