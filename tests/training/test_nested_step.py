"""A step of a nested network: one pass gives what separate networks of every width give together."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import anywidth as aw
from anywidth.batchnorm import share_statistics
from anywidth.core.errors import AnalysisError, ModelChangedError, NotFiniteError, WidthError
from anywidth.training.lightning import SandwichModule
from proofs import kept
from supernet.test_random_networks import Network, Piece, networks

WIDTHS = (0.25, 0.5, 0.75, 1.0)
DOUBLE = torch.float64


def small(norm: type[nn.Module] = nn.BatchNorm2d) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), norm(32), nn.ReLU(inplace=True), nn.Conv2d(32, 48, 3), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 40), nn.ReLU(), nn.Linear(40, 5),
    )  # fmt: skip


def oracle(net: aw.Supernet, x: Tensor, y: Tensor, *, distils: bool = True) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and summed gradients of independent networks with the same weights, each trained alone."""
    found = {name: torch.zeros_like(p) for name, p in net.model.named_parameters()}
    losses: list[float] = []
    soft = torch.zeros(())
    for config in reversed(net.shells.widths):
        dense = net.extract(config, calibrated=False).train()
        output = dense(x)
        if config == net.config(1.0):
            soft = output.detach().softmax(1)
        value = F.cross_entropy(output, soft if distils and losses else y)
        losses.append(value.item())
        value.backward()
        for name, parameter in dense.named_parameters():
            if parameter.grad is not None:
                found[name][np.ix_(*kept(net, config, name))] += parameter.grad
    for name, later in net.shells.nesting.later.items():
        later.zero_(found[name])
    return losses, found


def assert_like_oracle(net: aw.Supernet, x: Tensor, y: Tensor, *, distils: bool = True) -> None:
    net.model.train()
    wanted, gradients = oracle(net, x, y, distils=distils)
    net.model.zero_grad()
    result = aw.nested_step(net, x, y, distillation="auto" if distils else None)
    np.testing.assert_allclose(result.losses.tolist(), wanted, rtol=1e-9)
    for name, parameter in net.model.named_parameters():
        ours = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(
            ours, gradients[name], rtol=1e-6, atol=1e-10, msg=lambda text, n=name: f"{n}: {text}"
        )


def assert_prefixes(net: aw.Supernet, x: Tensor) -> None:
    """Every module of the body returns the first channels of what it returns in the full network."""
    net.model.eval()
    for config in net.shells.widths:
        subnet = net.subnet(config)
        with torch.no_grad(), net.shells.recorded(net.model) as full:
            net.model(x)
        with torch.no_grad(), net.shells.recorded(subnet) as narrow:
            own = subnet(x)
        number = net.shells.number(config)
        for path, calls in net.shells.nesting.body.items():
            for leaves, *outputs in zip(calls, full[path], narrow[path], strict=True):
                tensors = [[t for t in pytree.tree_leaves(output) if isinstance(t, Tensor)] for output in outputs]
                for leaf, part, got in zip(leaves, *tensors, strict=True):
                    for dim, positions in enumerate(leaf.kept[number]):
                        if positions is not None:
                            index = (
                                torch.arange(positions) if isinstance(positions, int) else torch.from_numpy(positions)
                            )
                            part = part.index_select(dim, index)
                    torch.testing.assert_close(got, part, rtol=1e-9, atol=1e-10)
        with torch.no_grad(), net.shells.replayed(subnet, full, config):
            torch.testing.assert_close(subnet(x), own, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("distils", [True, False])
def test_gradients_are_those_of_separate_networks(distils: bool) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(6, 3, 9, 9, dtype=DOUBLE), torch.randint(5, (6,))
    net = aw.Supernet(small().double(), x, nested=WIDTHS)
    assert_like_oracle(net, x, y, distils=distils)
    assert_prefixes(net, x)


def check_random(model: Network, divisor: int, widths: list[float]) -> None:
    torch.manual_seed(0)
    model = model.double()
    x, y = torch.randn(4, 3, 4, 4, dtype=DOUBLE), torch.randint(3, (4,))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="only .* of the MACs")
        try:
            net = aw.Supernet(model, x, divisor=divisor, nested=[*widths, 1.0])
        except AnalysisError:
            mixing = [block for block in model.blocks if block.kind in ("shuffle", "halves", "grouped")]
            # A single channel, which is no group, reads all shells.
            single = [block for block in model.blocks if block.kind == "excite" and block.a.out_channels == 1]
            single += [block for block in model.blocks if block.kind == "concat" and block.b[0].out_channels == 1]
            assert mixing or single  # they freeze hidden channels
            return
        except WidthError:  # two of the widths round to the same channels
            return
    share_statistics(net, net.shells.widths)  # of batch norms in the tail, which have their own at every width
    assert_prefixes(net, x)
    assert_like_oracle(net, x, y)


_QUIET = settings(
    derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
_ARGUMENTS = {
    "model": networks,
    "divisor": st.integers(1, 4),
    "widths": st.lists(st.sampled_from([0.2, 0.3, 0.45, 0.6, 0.8]), min_size=1, max_size=3, unique=True).map(sorted),
}


@settings(_QUIET, max_examples=3)
@given(**_ARGUMENTS)
def test_random_networks(model: Network, divisor: int, widths: list[float]) -> None:
    check_random(model, divisor, widths)


@pytest.mark.slow
@settings(_QUIET, max_examples=25)
@given(**_ARGUMENTS)
def test_many_random_networks(model: Network, divisor: int, widths: list[float]) -> None:
    check_random(model, divisor, widths)


class Mixing(torch.optim.Optimizer):
    """An optimizer whose update mixes the entries of a matrix, as Muon does by orthogonalising it."""

    def __init__(self, parameters: object) -> None:
        super().__init__(parameters, {})  # type: ignore[arg-type]

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                matrix = parameter.grad.flatten(1) if parameter.ndim > 1 else parameter.grad[None]
                u, _, v = torch.linalg.svd(matrix, full_matrices=False)
                parameter.sub_(0.02 * (u @ v).reshape(parameter.shape))


OPTIMIZERS: dict[str, Callable[[object], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),  # type: ignore[arg-type]
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.1),  # type: ignore[arg-type]
    "mixing": Mixing,
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_zero_entries_stay_zero(optimizer: str) -> None:
    torch.manual_seed(0)
    model, x, y = small(), torch.randn(8, 3, 8, 8), torch.randint(5, (8,))
    net = aw.Supernet(model, x, nested=WIDTHS)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    stepper = OPTIMIZERS[optimizer](model.parameters())
    model.train()
    losses: list[float] = []
    for step in range(100):
        stepper.zero_grad()
        losses.append(float(aw.nested_step(net, x, y).losses[0]))
        if step % 2:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        stepper.step()
        average.update_parameters(model)
    assert losses[-1] < losses[0]
    for name, later in net.shells.nesting.later.items():
        for weights in (model, average.module):
            entries = later.of(weights.get_parameter(name))
            assert sum(part.numel() for part in entries) > 0
            assert not any(bool(part.any()) for part in entries)


def test_a_plain_backward_pass_keeps_entries_zero() -> None:
    model, x = small(), torch.randn(4, 3, 8, 8)
    net = aw.Supernet(model, x, nested=WIDTHS)
    stepper = torch.optim.SGD(model.parameters(), lr=0.5)
    for width in WIDTHS:
        net.subnet(width)(x).square().sum().backward()
    stepper.step()
    net.shells.check()
    assert all(not part.any() for n, e in net.shells.nesting.later.items() for part in e.of(model.get_parameter(n)))


def test_no_width_needs_calibration() -> None:
    torch.manual_seed(0)
    model, x = small(), torch.randn(16, 3, 8, 8)
    net = aw.Supernet(model, x, nested=WIDTHS)
    model.train()
    for _ in range(3):
        aw.nested_step(net, x, torch.randint(5, (16,)))
    model.eval()
    assert not net.statistics.needed
    norm, full = net.subnet(0.5)[1], model[1]
    torch.testing.assert_close(norm.running_mean, full.running_mean[:16])
    torch.testing.assert_close(norm.running_var, full.running_var[:16])
    assert net.subnet(0.25)(x).isfinite().all()
    torch.testing.assert_close(net.extract(0.5)(x), net.subnet(0.5)(x))


def test_a_tail_with_a_norm_over_channels_is_run_per_width() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.LayerNorm(32), nn.Linear(32, 5)).double()
    x, y = torch.randn(6, 6, dtype=DOUBLE), torch.randint(5, (6,))
    net = aw.Supernet(model, x, nested=WIDTHS)
    assert net.shells.nesting.tail == {"3.weight", "3.bias", "4.weight", "4.bias"}
    assert_like_oracle(net, x, y)


def test_new_weights_keep_the_size_of_activations() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.Linear(256, 256), nn.Linear(256, 256), nn.Linear(256, 4))
    x = torch.randn(512, 64)
    plain = model[:3](x).std(0)
    net = aw.Supernet(model, x[:1], nested=WIDTHS)
    narrowest = ((model[:3](x).std(0) / plain)[: net.config(0.25)["2"]]).detach()
    assert 0.8 < float(narrowest.square().mean().sqrt()) < 1.25


REFUSED: dict[str, tuple[Callable[[], nn.Module], dict[str, object], str]] = {
    "norm": (lambda: nn.Sequential(nn.Linear(6, 32), nn.LayerNorm(32), nn.Linear(32, 32), nn.Linear(32, 5)), {}, "1 .LayerNorm.* cannot|cannot be nested: 1"),
    "softmax": (lambda: nn.Sequential(nn.Linear(6, 32), nn.Softmax(1), nn.Linear(32, 32), nn.Linear(32, 5)), {}, "cannot be nested: 1 .Softmax"),
    "frozen": (lambda: nn.Sequential(nn.Linear(6, 32), nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 5)), {"frozen": ("1",)}, "cannot be nested: 1 .*frozen"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_mixes_shells_is_refused_by_name(kind: str) -> None:
    build, options, text = REFUSED[kind]
    with pytest.raises(AnalysisError, match=text):
        aw.Supernet(build(), torch.randn(2, 6), nested=WIDTHS, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("nested", "text"),
    [
        ((0.5, 0.25, 1.0), "ascending"),
        ((0.25, 0.5), "end with 1"),
        ((0.25, 1 - 1e-10), "end with 1"),
        ((1.0,), "at least two"),
        (0.5, "list of widths"),
    ],
)
def test_shells_that_do_not_fit_are_refused(nested: object, text: str) -> None:
    with pytest.raises(WidthError, match=text):
        aw.Supernet(small(), torch.randn(1, 3, 8, 8), nested=nested)  # type: ignore[arg-type]


def test_widths_that_are_not_exact_are_refused() -> None:
    net = aw.Supernet(small(), torch.randn(1, 3, 8, 8), nested=WIDTHS)
    with pytest.raises(WidthError, match=r"ends inside a shell of '3'.*0\.25, 0\.5, 0\.75, 1"):
        net.subnet(0.65)
    with pytest.raises(WidthError, match="'3' ends at a later shell than '0'"):
        net.subnet({"0": 0.25, "3": 0.5, "7": 0.5})
    x = torch.randn(2, 3, 8, 8)
    net.model.eval()
    mixed = net.subnet({"0": 0.75, "3": 0.5, "7": 0.25})
    torch.testing.assert_close(mixed[:7](x), net.model[:7](x)[:, : net.config(0.5)["3"]])


def test_weights_that_are_not_nested_are_noticed() -> None:
    model, x = small(), torch.randn(2, 3, 8, 8)
    net = aw.Supernet(model, x, nested=WIDTHS)
    nested_state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(small().state_dict())
    with pytest.raises(ModelChangedError, match=r"3\.weight has weights that read later shells.*zero_later_shells"):
        aw.nested_step(net, x, torch.tensor([0, 1]))
    net.zero_later_shells()
    aw.nested_step(net, x, torch.tensor([0, 1]))
    model.load_state_dict(nested_state)
    aw.nested_step(net, x, torch.tensor([0, 1]))


def test_a_network_that_is_not_nested_is_refused() -> None:
    net = aw.Supernet(small(), torch.randn(1, 3, 8, 8))
    with pytest.raises(WidthError, match="not nested"):
        aw.nested_step(net, torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))


def test_a_loss_that_is_not_finite_is_named() -> None:
    model = small()
    net = aw.Supernet(model, torch.randn(1, 3, 8, 8), nested=WIDTHS)
    with pytest.raises(NotFiniteError, match=r"width 1, 0\.75, 0\.5, 0\.25"):
        aw.nested_step(net, torch.full((2, 3, 8, 8), float("nan")), torch.tensor([0, 1]))


def test_autocast() -> None:
    torch.manual_seed(0)
    net = aw.Supernet(small(), torch.randn(1, 3, 8, 8), nested=WIDTHS)
    net.model.train()
    with torch.autocast("cpu", torch.bfloat16):
        result = aw.nested_step(net, torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3]))
    assert result.losses.isfinite().all()
    assert all(parameter.grad is not None for parameter in net.model.parameters())


def test_zero_weights_do_not_count() -> None:
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 5))
    net = aw.Supernet(model, torch.randn(1, 8), nested=WIDTHS)
    assert aw.macs(net, 1.0, dense=True) == 8 * 32 + 32 * 32 + 32 * 5
    assert aw.macs(net, 1.0) == 8 * 32 + 32 * 32 * 10 // 16 + 32 * 5
    assert aw.macs(net, 0.5) == 8 * 16 + 16 * 16 * 3 // 4 + 16 * 5


def test_save_load_copy_and_spectrum(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = small(), torch.randn(8, 3, 8, 8)
    net = aw.Supernet(model, x[:2], nested=WIDTHS)
    model.train()
    aw.nested_step(net, x, torch.randint(5, (8,)))
    model.eval()
    again = aw.load(net.save(tmp_path), small())
    assert again.nested == WIDTHS
    for other in (again, copy.deepcopy(net)):
        other.model.eval()
        torch.testing.assert_close(other.subnet(0.5)(x), net.subnet(0.5)(x))
        aw.nested_step(other, x, torch.randint(5, (8,)))
        with pytest.raises(WidthError, match="ends inside a shell"):
            other.subnet(0.65)
    loader = [(x, torch.randint(5, (8,)))]
    assert [row.width for row in aw.spectrum(net, loader)] == list(WIDTHS)


def test_a_lightning_module_takes_nested_steps() -> None:
    torch.manual_seed(0)
    net = aw.Supernet(small(), torch.randn(1, 3, 8, 8), nested=WIDTHS)
    with pytest.raises(WidthError, match="leave out widths"):
        SandwichModule(net, lr=0.1, widths=3)
    before = net.model[0].weight.detach().clone()
    loader = DataLoader(TensorDataset(torch.randn(16, 3, 8, 8), torch.randint(5, (16,))), batch_size=8)
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    Trainer(max_epochs=1, accelerator="cpu", **quiet).fit(SandwichModule(net, lr=0.1), loader)  # type: ignore[arg-type]
    assert not torch.equal(net.model[0].weight, before)
    net.shells.check()


@pytest.mark.parametrize("where", ["0", "2", "3"])
def test_hooks_that_change_outputs_are_applied_once(where: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 3)).double()
    model.get_submodule(where).register_forward_hook(lambda _, __, output: 2 * output)
    x, y = torch.randn(8, 4).double(), torch.arange(8) % 3
    net = aw.Supernet(model, x, divisor=1, nested=(0.25, 0.5, 1.0))
    losses = aw.nested_step(net, x, y, distillation=None).losses
    model.eval()
    runner = net.progressive()
    for width, loss in zip((1.0, 0.5, 0.25), losses, strict=True):
        output = net.extract(width)(x)
        torch.testing.assert_close(loss, nn.functional.cross_entropy(output, y).detach())
        torch.testing.assert_close(runner.start(x, width), output)


def test_a_difference_that_a_dead_unit_hides_is_refused() -> None:
    """A squeeze to one channel reads all shells; its ReLU returns zero for the weights of the proof."""
    torch.manual_seed(0)
    pieces = [
        Piece(kind="scale", channels=9, number=4, norm=False),
        Piece(kind="excite", channels=2, number=0, norm=False),
        Piece(kind="dense", channels=11, number=1, norm=True),
    ]
    model = Network(pieces=pieces, stem=15, flat=False).double()
    with pytest.raises(AnalysisError, match=r"blocks\.1\.a .* lets channels depend on later shells"):
        aw.Supernet(model, torch.randn(4, 3, 4, 4, dtype=DOUBLE), divisor=4, nested=[0.45, 1.0])


class Hidden(nn.Module):
    """Reads all shells by a unit whose ReLU is zero for ordinary inputs."""

    def __init__(self, *, split: bool, norm: bool) -> None:
        super().__init__()
        self.split = split
        self.a, self.b, self.head = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.squeeze = nn.Linear(16, 1)
        self.norm = nn.LayerNorm(16) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        gate = (self.squeeze(x) - 1e3).relu()
        if self.split:
            gate, _ = gate.expand(-1, 2).chunk(2, dim=1)
        return self.head(self.b(self.norm(x + gate)).relu())


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_a_hidden_difference_is_followed_through_lists_and_norms(split: bool, norm: bool) -> None:
    options = {"nested_norm": "shell"} if norm else {}
    with pytest.raises(AnalysisError, match=r"squeeze \(Linear.* lets channels depend on later shells"):
        aw.Supernet(Hidden(split=split, norm=norm), torch.randn(2, 4), divisor=4, nested=[0.5, 1.0], **options)
