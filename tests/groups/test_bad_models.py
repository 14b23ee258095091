"""Models that cannot be a supernet are refused in one paragraph: which module, what it does, what to change."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import AnalysisError


class Net(nn.Module):
    def __init__(self, middle: nn.Module | None = None, extra: Any = None) -> None:
        super().__init__()
        self.a, self.middle, self.o = nn.Linear(6, 32), middle or nn.ReLU(), nn.Linear(32, 4)
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.middle(self.a(x)))


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class Selected(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x[:, 0] > 0].relu() if int((x > 0).sum()) else x


def meta() -> nn.Module:
    return Net().to("meta")


def lazy() -> nn.Module:
    return Net(nn.LazyLinear(32))


def made_for_inference() -> nn.Module:
    with torch.inference_mode():
        return Net()


def scripted() -> nn.Module:
    with pytest.warns(FutureWarning, match="torch.jit.script"):
        return Net(torch.jit.script(nn.Sequential(nn.ReLU(), nn.Linear(32, 32))))


def quantized_buffer() -> nn.Module:
    model = Net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.register_buffer("table", torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8))
    return model


def sparse() -> nn.Module:
    model = Net()
    model.o.weight = nn.Parameter(model.o.weight.detach().to_sparse())
    return model


class Stubborn(nn.ReLU):
    def __deepcopy__(self, memo: Any) -> Stubborn:
        raise RuntimeError("only one of me")


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (made_for_inference, r"^a.weight was created under torch.inference_mode.*clone"),
    (meta, r"^a.weight is on the meta device.*to_empty"),
    (lazy, r"^middle.weight has no shape yet; call the model once"),
    (scripted, r"^middle \(RecursiveScriptModule\) is a scripted module"),
    (quantized_buffer, r"^table is quantized \(torch.qint8\)"),
    (sparse, r"^o.weight is sparse \(torch.sparse_coo\)"),
    (lambda: Net(Stubborn()), r"^middle \(Stubborn\) cannot be copied.*only one of me"),
    (lambda: Net, r"^the model is the class Net, not a torch.nn.Module"),
    (lambda: torch.relu, r"^the model is a builtin_function_or_method"),
    (
        lambda: Net(Branch()),
        r"depends on the values of tensors in module 'middle' \(Branch, line \d+ of .*if x.sum\(\)",
    ),
    (lambda: Net(Selected()), r"depends on the values of tensors in module 'middle' \(Selected, line \d+ of"),
    (
        lambda: Net(nn.Linear(31, 32)),
        r"does not run on example_inputs \(\(2, 6\) float32\) in module 'middle' \(Linear",
    ),
]


@pytest.mark.parametrize(("model", "message"), REFUSED, ids=[message[:28] for _, message in REFUSED])
def test_refused_in_one_paragraph(model: Callable[[], Any], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    made = model()
    with pytest.raises(AnalysisError, match=message) as caught:
        aw.Supernet(made, torch.randn(2, 6))
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 700
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.randn(2, 5), r"in module 'a' \(Linear.*mat1 and mat2"),
        ((torch.randn(2, 6), torch.randn(2)), r"\(\(2, 6\) float32, \(2,\) float32\).*TypeError.*positional argument"),
        ({"y": torch.randn(2, 6)}, "TypeError.*unexpected keyword argument 'y'"),
        (torch.randn(2, 6).long(), r"in module 'a' \(Linear.*dtype"),
    ],
    ids=["shape", "too many", "keyword", "dtype"],
)
def test_wrong_inputs(inputs: Any, message: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AnalysisError, match=f"Net does not run on example_inputs.*{message}") as caught:
        aw.Supernet(Net(), inputs)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "extra",
    [threading.Lock, threading.Event, lambda: threading, lambda: Path(__file__).open(), lambda: iter([1]),  # noqa: SIM115
     lambda: (n for n in range(3)), torch.Generator, lambda: {"lock": [threading.RLock()]}, threading.local],
    ids=["lock", "event", "module", "file", "iterator", "generator", "torch generator", "nested", "local"],
)  # fmt: skip
def test_things_that_cannot_be_copied_are_shared(extra: Callable[[], Any]) -> None:
    model, x = Net(extra=extra()), torch.randn(2, 6)
    net = aw.Supernet(model, x)
    with torch.no_grad():
        h = (x @ model.a.weight[:16].T + model.a.bias[:16]).relu()
        wanted = h @ model.o.weight[:, :16].T + model.o.bias
        torch.testing.assert_close(net.subnet(0.5)(x), wanted)
        torch.testing.assert_close(net.extract(1.0)(x), model(x))
    if hasattr(model.extra, "close"):
        model.extra.close()


class Carrying(nn.Module):
    """A layer that adds what the last call left in an attribute."""

    def __init__(self, *, uses: bool) -> None:
        super().__init__()
        self.a, self.o, self.uses = nn.Linear(6, 32), nn.Linear(32, 4), uses
        self.last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x)
        if self.uses and self.last is not None:
            hidden = hidden + self.last
        self.last = hidden
        return self.o(hidden)


def test_state_in_a_plain_attribute_is_refused() -> None:
    x = torch.randn(2, 6)
    with pytest.raises(AnalysisError, match=r"forward of Carrying keeps 'last' .* register it as a buffer"):
        aw.Supernet(Carrying(uses=True), x)
    assert aw.Supernet(Carrying(uses=False), x).elastic_share == 1


class Writing(nn.Module):
    """A layer that changes its input in place."""

    def __init__(self, write: Callable[[Tensor], object], *, in_training_only: bool = False) -> None:
        super().__init__()
        self.a, self.o, self.write, self.only = nn.Linear(6, 32), nn.Linear(32, 4), write, in_training_only

    def forward(self, x: Tensor) -> Tensor:
        if self.training or not self.only:
            self.write(x)
        return self.o(self.a(x).relu())


@pytest.mark.parametrize("in_training_only", [False, True])
@pytest.mark.parametrize(
    "write",
    [lambda x: x.mul_(2), lambda x: x[:, 0].fill_(1), lambda x: x.view(-1).detach().zero_(), nn.ReLU(inplace=True)],
    ids=["whole", "part", "view", "module"],
)
def test_a_forward_that_changes_its_input_is_refused(write: Callable[[Tensor], object], in_training_only: bool) -> None:
    x = torch.randn(2, 6)
    before = x.clone()
    with pytest.raises(AnalysisError, match=r"forward of Writing changes its input of shape \(2, 6\) .* x.clone"):
        aw.Supernet(Writing(write, in_training_only=in_training_only), x)
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.eye(6).to_sparse(), r"sparse tensor \(torch.sparse_coo\)"),
        (torch.nested.nested_tensor([torch.ones(3, 6), torch.ones(2, 6)], layout=torch.jagged), "nested tensor"),
        (torch.ones(2, 6, device="meta"), "on the meta device"),
    ],
    ids=["sparse", "nested", "meta"],
)
def test_inputs_that_are_not_dense_are_refused(inputs: Tensor, message: str) -> None:
    with pytest.raises(AnalysisError, match=f"one of example_inputs is .*{message}"):
        aw.Supernet(Net(), inputs)
