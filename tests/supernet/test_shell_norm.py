"""Norms per shell: what a channel is divided by does not depend on later shells, so that transformers can be nested."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import AnalysisError, CheckpointError, NoEffectWarning, WidthError
from anywidth.groups.attention import default_attention
from anywidth.supernet.blocked import Blocked, BlockedAttention
from anywidth.supernet.replace_norms import described
from anywidth.supernet.shell_norm import NormKind, ShellNorm
from fast import fast_and_slow
from supernet.test_blocked import flops
from training.test_nested_step import assert_like_oracle, assert_prefixes

WIDTHS = (0.25, 0.5, 1.0)
DOUBLE = torch.float64
KINDS: tuple[NormKind, ...] = ("layer", "rms", "group")


def vit(layers: int = 1) -> nn.Module:
    """A small vision transformer, with a head that is not zero."""
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(
        image_size=8, patch_size=4, num_layers=layers, num_heads=4, hidden_dim=32, mlp_dim=48, num_classes=5
    )
    nn.init.normal_(model.heads.head.weight, std=0.2)
    nn.init.normal_(model.conv_proj.bias, std=0.2)
    return model


def encoder(*, first: bool) -> nn.Module:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 48, batch_first=True, norm_first=first, dropout=0.0)
    return nn.Sequential(
        nn.Linear(6, 32), nn.TransformerEncoder(layer, 1 if first else 2, enable_nested_tensor=False), Head(32)
    )


class Head(nn.Module):
    """Classes from the mean over tokens."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.classes = nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.classes(x.mean(1))


class OwnRMSNorm(nn.Module):
    """An RMS norm as language models write it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels) + 0.5)
        self.variance_epsilon = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))


def language_model() -> nn.Module:
    """Embeddings, a norm of its own class and an MLP, twice."""
    torch.manual_seed(0)
    blocks = [m for _ in range(2) for m in (OwnRMSNorm(32), nn.Linear(32, 48), nn.SiLU(), nn.Linear(48, 32))]
    return nn.Sequential(nn.Embedding(11, 32), *blocks, OwnRMSNorm(32), Head(32))


def convolutions() -> nn.Module:
    """A group norm of one group, one of several, and a layer norm over the second dimension."""
    torch.manual_seed(0)
    norms = nn.GroupNorm(1, 32), nn.GroupNorm(4, 32), torchvision.models.convnext.LayerNorm2d(32)
    layers = [layer for norm in norms for layer in (nn.Conv2d(32, 32, 3, padding=1), norm)]
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), *layers, nn.Conv2d(32, 32, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)
    )


def images() -> Tensor:
    return torch.randn(4, 3, 8, 8, dtype=DOUBLE)


def tokens() -> Tensor:
    return torch.randn(4, 5, 6, dtype=DOUBLE)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], int]] = {
    "vit": (lambda: vit(2), images, 4),
    "norm last": (lambda: encoder(first=False), tokens, 3),
    "norm first": (lambda: encoder(first=True), tokens, 2),
    "language model": (language_model, lambda: torch.arange(24).reshape(4, 6) % 11, 2),
    "convolutions": (convolutions, images, 2),
}


@dataclass
class Nested:
    """A nested network with norms per shell, how to build its model, and inputs."""

    net: aw.Supernet
    build: Callable[[], nn.Module]
    x: Tensor


@pytest.fixture(params=fast_and_slow(MODELS, {"norm first", "convolutions"}))
def nested(request: pytest.FixtureRequest) -> Nested:
    """Every model; how many of its norms are replaced is checked, and that no key changes."""
    build, inputs, norms = MODELS[request.param]
    model = build().double()
    keys = list(model.state_dict())
    x = inputs()
    net = aw.Supernet(model, x, nested=WIDTHS, nested_norm="shell")
    assert len(described(model)) == norms
    assert list(model.state_dict()) == keys
    return Nested(net, lambda: build().double(), x)


def test_networks_with_norms(nested: Nested, tmp_path: Path) -> None:
    """Widths are prefixes that learn what they would alone; blocked networks and checkpoints compute the same."""
    net, x = nested.net, nested.x
    assert_prefixes(net, x)
    assert_like_oracle(net, x, torch.randint(5, (len(x),)))
    net.model.eval()
    assert any(isinstance(module, Blocked) for module in net.blocked(1.0, smallest=0).modules())
    again = aw.load(net.save(tmp_path), nested.build())
    assert described(again.model) == described(net.model)
    again.model.eval()
    with torch.no_grad():
        for width in WIDTHS:
            wanted = net.subnet(width)(x)
            torch.testing.assert_close(net.extract(width)(x), wanted)
            torch.testing.assert_close(net.blocked(width, smallest=0)(x), wanted)
            torch.testing.assert_close(again.subnet(width)(x), wanted)
            torch.testing.assert_close(copy.deepcopy(net).subnet(width)(x), wanted)


def reference(norm: ShellNorm, x: Tensor) -> Tensor:
    """The same, shell by shell, with the functions of torch."""
    result = torch.empty_like(x)
    for shell in norm.shells.unique():
        prefix = torch.nonzero(norm.shells <= shell)[:, 0]
        weight, bias = (None if p is None else p[prefix] for p in (norm.weight, norm.bias))
        part = x.index_select(norm.dim, prefix)
        if norm.kind == "group":
            made = F.group_norm(part, 1, weight, bias, norm.eps)
        elif norm.kind == "layer":
            made = F.layer_norm(part.movedim(norm.dim, -1), (len(prefix),), weight, bias, norm.eps).movedim(
                -1, norm.dim
            )
        else:
            made = F.rms_norm(part.movedim(norm.dim, -1), (len(prefix),), weight, norm.eps).movedim(-1, norm.dim)
        here = norm.shells[prefix] == shell
        result.index_copy_(norm.dim, prefix[here], made.index_select(norm.dim, torch.nonzero(here)[:, 0]))
    return result


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    shells=st.lists(st.integers(0, 3), min_size=1, max_size=9).map(lambda found: [0, *found]),
    dim=st.sampled_from([-1, 1]),
    affine=st.booleans(),
    offset=st.sampled_from([0.0, 1000.0]),
    seed=st.integers(0, 99),
)
def test_a_norm_is_that_of_the_channels_up_to_each_shell(
    kind: NormKind, shells: list[int], dim: int, affine: bool, offset: float, seed: int
) -> None:
    torch.manual_seed(seed)
    dim = 1 if kind == "group" else dim
    size = len(shells)
    weight = nn.Parameter(torch.randn(size, dtype=DOUBLE)) if affine else None
    bias = nn.Parameter(torch.randn(size, dtype=DOUBLE)) if affine and kind != "rms" else None
    norm = ShellNorm(kind, torch.tensor(shells), dim=dim, eps=1e-5, weight=weight, bias=bias)
    x = torch.randn(*((2, size, 3, 4) if dim == 1 else (2, 3, size)), dtype=DOUBLE) + offset
    with torch.no_grad():
        torch.testing.assert_close(norm(x), reference(norm, x), rtol=1e-6, atol=1e-6)


def test_large_means_do_not_cancel() -> None:
    torch.manual_seed(0)
    norm = ShellNorm("layer", torch.arange(64) // 16, dim=-1, eps=1e-6)
    x = torch.randn(8, 64) + 1000
    torch.testing.assert_close(norm(x), reference(norm, x.double()).float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    norm = ShellNorm("layer", torch.arange(64) // 16, dim=-1, eps=1e-6)
    x = torch.randn(8, 64)
    low = norm(x.to(dtype))
    assert low.dtype == dtype
    torch.testing.assert_close(low.float(), norm(x.to(dtype).float()), rtol=1e-2, atol=1e-2)
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(norm(x), reference(norm, x), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def small() -> aw.Supernet:
    """A nested vision transformer; do not change it."""
    return aw.Supernet(vit().eval(), torch.randn(2, 3, 8, 8), nested=WIDTHS, nested_norm="shell")


def test_norms_in_the_tail_stay(small: aw.Supernet) -> None:
    net = small
    assert type(net.model.encoder.ln) is nn.LayerNorm
    assert {"encoder.ln.weight", "heads.head.weight"} <= net.shells.nesting.tail
    assert set(net.shells.nesting.body) >= {"conv_proj", "encoder.layers"}


def test_trained_weights_are_ordered_first() -> None:
    torch.manual_seed(0)
    model = language_model().double()
    x = torch.arange(24).reshape(4, 6) % 11
    with torch.no_grad():
        for module in model:
            if isinstance(module, OwnRMSNorm):
                module.weight.uniform_(0.1, 2.0)
    net = aw.Supernet(model, x, nested=WIDTHS, nested_norm="shell", order="l1")
    assert [norm.shells.tolist() for norm in model if isinstance(norm, ShellNorm)] == [[0] * 8 + [1] * 8 + [2] * 16] * 2
    assert_prefixes(net, x)


HOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "forward hook": lambda norm: norm.register_forward_hook(lambda module, args, output: output * 2),
    "forward pre hook": lambda norm: norm.register_forward_pre_hook(lambda module, args: args),
    "backward hook": lambda norm: norm.register_full_backward_hook(lambda *_: None),
    "state dict hook": lambda norm: norm.register_state_dict_post_hook(lambda *_: None),
}


@pytest.mark.parametrize("kind", HOOKS)
def test_norms_with_hooks_are_not_replaced(kind: str) -> None:
    model = nn.Sequential(nn.Linear(4, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    norm, weight = model[1], model[3].weight.detach().clone()
    handle = HOOKS[kind](norm)
    with pytest.raises(AnalysisError, match=rf"replaces 1 \(LayerNorm\), which has a {kind} that its replacement"):
        aw.Supernet(model, torch.randn(2, 4), nested=WIDTHS, nested_norm="shell")
    assert model[1] is norm
    assert torch.equal(model[3].weight, weight)
    handle.remove()
    aw.Supernet(model, torch.randn(2, 4), nested=WIDTHS, nested_norm="shell")
    assert isinstance(model[1], ShellNorm)


@pytest.mark.slow
def test_a_model_with_norms_of_other_shells_is_nested_again() -> None:
    model = language_model().double()
    x = torch.arange(24).reshape(4, 6) % 11
    for widths in (WIDTHS, (0.5, 1.0)):
        net = aw.Supernet(model, x, nested=widths, nested_norm="shell")
        assert {norm.count for norm in model if isinstance(norm, ShellNorm)} == {len(widths)}
        assert_prefixes(net, x)


@pytest.mark.slow
def test_a_small_vision_transformer_trains() -> None:
    torch.manual_seed(0)
    model = vit().double()
    x, y = torch.randn(16, 3, 8, 8, dtype=DOUBLE), torch.randint(5, (16,))
    net = aw.Supernet(model, x[:2], nested=WIDTHS, nested_norm="shell")
    stepper = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    losses = []
    for _ in range(40):
        stepper.zero_grad()
        losses.append(aw.nested_step(net, x, y, label_loss_weight=0.5).losses)
        stepper.step()
    assert bool((losses[-1] < 0.7 * losses[0]).all())
    net.shells.check()
    assert_prefixes(net, x)


def test_a_blocked_transformer_computes_what_is_counted(small: aw.Supernet) -> None:
    x = torch.randn(2, 3, 8, 8)
    module = small.blocked(1.0, smallest=0)
    assert isinstance(module.encoder.layers[0].self_attention, BlockedAttention)
    for width in WIDTHS:
        assert flops(small.blocked(width, smallest=0), x) == 2 * 2 * aw.macs(small, width)
        with default_attention():  # its fused kernel is not counted
            assert flops(small.extract(width), x) == 2 * 2 * aw.macs(small, width, dense=True)


def test_heads_do_not_straddle_shells(small: aw.Supernet) -> None:
    later = small.shells.nesting.later["encoder.layers.encoder_layer_0.self_attention.in_proj_weight"]
    assert later.rows.reshape(3, 4, 8).tolist() == [[[shell] * 8 for shell in (0, 1, 2, 2)]] * 3


@pytest.mark.slow
def test_exports_have_the_norms(small: aw.Supernet, tmp_path: Path) -> None:
    assert aw.export(small, 0.5, tmp_path / "half.onnx").difference < 1e-5
    assert aw.export(small, 1.0, tmp_path / "full.pt2", blocked=True).difference < 1e-5


def test_the_fused_kernel_of_evaluation_mode_is_not_used() -> None:
    model = encoder(first=True)
    x = torch.randn(4, 5, 6)
    net = aw.Supernet(model, x, nested=WIDTHS, nested_norm="shell")
    training = model.train()(x)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(x), training, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(net.blocked(1.0, smallest=0)(x), training, rtol=1e-4, atol=1e-5)


def test_what_is_not_well_defined_is_refused_and_the_model_stays() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.GroupNorm(1, 32), nn.Conv2d(32, 32, 3), nn.LayerNorm([32, 4, 4]), nn.Conv2d(32, 32, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
    )  # fmt: skip
    kinds = [type(module) for module in model]
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(AnalysisError, match=r"cannot be nested: 3 \(LayerNorm"):
        aw.Supernet(model, torch.randn(2, 3, 8, 8), nested=WIDTHS, nested_norm="shell")
    assert [type(module) for module in model] == kinds
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    first, layers, last = encoder(first=True)
    flags = [layer.activation_relu_or_gelu for layer in layers.layers]
    wrong = nn.Sequential(first, layers, nn.Softmax(-1), nn.Linear(32, 32), last)
    with pytest.raises(AnalysisError, match=r"cannot be nested: 2 \(Softmax"):
        aw.Supernet(wrong, torch.randn(2, 5, 6), nested=WIDTHS, nested_norm="shell")
    assert [layer.activation_relu_or_gelu for layer in layers.layers] == flags
    assert not described(wrong)


def test_norms_are_refused_by_default_with_the_way_out() -> None:
    with pytest.raises(AnalysisError, match=r'ln_1 \(LayerNorm, .*nested_norm="shell"'):
        aw.Supernet(vit(), torch.randn(2, 3, 8, 8), nested=WIDTHS)


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(WidthError, match="nested_norm='shell' needs nested="):
        aw.Supernet(vit(), torch.randn(2, 3, 8, 8), nested_norm="shell")
    with pytest.raises(WidthError, match="nested_norm='batch'"):
        aw.Supernet(vit(), torch.randn(2, 3, 8, 8), nested=WIDTHS, nested_norm="batch")  # type: ignore[arg-type]
    plain = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.LayerNorm(32), nn.Linear(32, 5))
    with pytest.warns(NoEffectWarning, match="nested_norm=.* has no effect"):
        aw.Supernet(plain, torch.randn(2, 6), nested=WIDTHS, nested_norm="shell")


def test_networks_with_norms_per_shell_cannot_be_refined() -> None:
    net = aw.Supernet(language_model().eval(), torch.arange(24).reshape(4, 6) % 11, nested=WIDTHS, nested_norm="shell")
    with pytest.raises(AnalysisError, match=r"1 \(ShellNorm\) needs the channels of earlier shells.*net\.subnet"):
        net.progressive()


def test_a_checkpoint_of_other_norms_is_refused(tmp_path: Path) -> None:
    net = aw.Supernet(convolutions(), images().float(), nested=WIDTHS, nested_norm="shell")
    net.save(tmp_path)
    other = convolutions()
    other[2] = nn.Identity()
    with pytest.raises(CheckpointError, match="2 is a norm of 32 channels in the file and not in the model"):
        aw.load(tmp_path, other)
    other = convolutions()
    other[7] = nn.Conv2d(32, 24, 1)
    with pytest.raises(CheckpointError, match="checkpoint of a different model"):
        aw.load(tmp_path, other)
    assert not described(other)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:transformers", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_language_models_of_transformers(name: str, tmp_path: Path) -> None:
    t = pytest.importorskip("transformers")

    def build() -> nn.Module:
        torch.manual_seed(0)
        if name == "gpt2":
            return t.GPT2LMHeadModel(t.GPT2Config(vocab_size=64, n_embd=64, n_layer=2, n_head=4, n_positions=32)).eval()
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        return t.LlamaForCausalLM(t.LlamaConfig(vocab_size=64, num_key_value_heads=2, **sizes)).eval()

    ids = torch.arange(24).reshape(2, 12) * 7 % 61 + 3
    net = aw.Supernet(build(), {"input_ids": ids}, nested=(0.5, 1.0), nested_norm="shell")
    assert len(described(net.model)) == 4
    again = aw.load(net.save(tmp_path), build())
    again.model.eval()
    states = [net.model(input_ids=ids, output_hidden_states=True).hidden_states]
    states += [other.subnet(0.5)(input_ids=ids, output_hidden_states=True).hidden_states for other in (net, again)]
    for full, narrow, loaded in list(zip(*states, strict=True))[:-1]:  # the last is that of the tail
        torch.testing.assert_close(narrow, full[..., :32], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(loaded, narrow)
