"""Building a supernet leaves the model, its classes and all global state exactly as they were."""

from __future__ import annotations

import random
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import anywidth as aw
from anywidth.core.errors import AnalysisError
from anywidth.groups.prover import Prover
from fingerprint import fingerprint
from proofs import call
from zoo import Case, cases


def build(model: nn.Module, x: Any, **options: Any) -> aw.Supernet:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="only .* of the MACs")
        return aw.Supernet(model, x, **options)


def same(before: dict[str, Any], after: dict[str, Any]) -> None:
    changed = [place for place in {**before, **after} if before.get(place) != after.get(place)]
    assert not changed, {place: (before.get(place), after.get(place)) for place in changed[:5]}


@pytest.mark.parametrize("case", cases(few=True))
def test_every_model_of_the_zoo(case: Case) -> None:
    model, x = case.model(), case.example()
    model.train()
    for module in list(model.modules())[1::2]:
        module.training = False
    before = fingerprint(model)
    build(model, x)
    same(before, fingerprint(model))


@dataclass
class Record:
    """What a forward writes down."""

    steps: int = 0
    seen: list[Any] = field(default_factory=list)


class Writes(nn.Module):
    """A forward that writes wherever it can."""

    calls = 0
    last: Any = None
    table: dict[str, Any] = {}  # noqa: RUF012 - that of the class is meant

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 32), nn.Linear(32, 3)
        self.aux: Any = None
        self.kept, self.recent, self.names = [], deque(maxlen=2), {"none"}
        self.nested = {"maps": [{"first": []}]}
        self.record, self.array = Record(), np.zeros(3)
        self.register_buffer("cache", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        Writes.calls += 1
        Writes.last = h
        self.table["h"] = h
        self.aux = h.mean()
        self.kept.append(h)
        self.recent.append(h)
        self.names.add(str(len(self.kept)))
        self.nested["maps"][0]["first"].append(h)
        self.record.steps += 1
        self.record.seen.append(h)
        self.array[0] += 1
        self.later = h
        if not self.a._forward_hooks:
            self.a.register_forward_hook(lambda module, args, out: out)
        random.random()
        np.random.rand()
        torch.rand(1)
        return self.b(h)


class Fails(Writes):
    """Writes, and then does not work."""

    def forward(self, x: Tensor) -> Tensor:
        super().forward(x)
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        raise RuntimeError("in the middle")


class Branches(Writes):
    """Writes, and cannot be captured."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if y.sum() > 0 else -y


@pytest.mark.parametrize("trained", [False, True], ids=["new", "trained"])
@pytest.mark.parametrize("kind", [Writes, Fails, Branches])
def test_forwards_that_write_and_fail(kind: type[Writes], trained: bool) -> None:
    model, x = kind(), torch.randn(4, 6)
    if trained and kind is Writes:
        model(x).sum().backward()
    before = fingerprint(model)
    if kind is Writes:
        net = build(model, x)
        same(before, fingerprint(model))
        assert net.analysis.elastic
        assert net.subnet(0.5)(x).shape == (4, 3)
    else:
        with pytest.raises(AnalysisError):
            build(model, x)
        same(before, fingerprint(model))


def test_a_failing_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        torch.rand(3)
        raise MemoryError("no memory for the proof")

    model, x = Writes(), torch.randn(4, 6)
    before = fingerprint(model)
    monkeypatch.setattr(Prover, "prove", fail)
    with pytest.raises(MemoryError, match="for the proof"):
        build(model, x)
    same(before, fingerprint(model))


@pytest.mark.parametrize("wrong", [{"frozen": ["nothing"]}, {"switches": (0.5, 0.51, 1.0)}, {"order": lambda *_: 3}])
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    model, x = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.Linear(32, 3)), torch.randn(4, 6)
    before = fingerprint(model)
    with pytest.raises(aw.AnywidthError):
        build(model, x, **{"order": "l1", **wrong})
    same(before, fingerprint(model))


def test_an_order_that_fails_half_way(monkeypatch: pytest.MonkeyPatch) -> None:
    from anywidth.supernet import order

    model, x = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3)), torch.randn(4, 6)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    outputs, calls = order._outputs, []

    def second(*args: Any) -> list[Tensor]:
        calls.append(args)
        if len(calls) == 2:
            raise MemoryError("at the second run")
        return outputs(*args)

    monkeypatch.setattr(order, "_outputs", second)
    with pytest.raises(MemoryError):
        build(model, x, order="l1")
    torch.testing.assert_close(model.state_dict(), weights, rtol=0, atol=0)


def _hugging_face(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    transformers = pytest.importorskip("transformers")
    images = {"pixel_values": torch.randn(1, 3, 32, 32)}
    tokens = {"input_ids": torch.randint(50, (1, 6))}
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    makers = {
        "vit": lambda: transformers.ViTForImageClassification(
            transformers.ViTConfig(**small, image_size=32, patch_size=16)
        ),
        "bert": lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**small, vocab_size=50)),
        "segformer": lambda: transformers.SegformerForSemanticSegmentation(
            transformers.SegformerConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 16, 16, 16], decoder_hidden_size=16)
        ),
        "resnet": lambda: transformers.ResNetForImageClassification(
            transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        ),
    }  # fmt: skip
    return makers[name]().eval(), tokens if name == "bert" else images


@pytest.mark.parametrize("name", ["vit", "bert", pytest.param("segformer", marks=pytest.mark.slow), "resnet"])
def test_hugging_face_models_run_as_before(name: str) -> None:
    model, x = _hugging_face(name)
    before = fingerprint(model)
    net = build(model, x, divisor=2)
    same(before, fingerprint(model))
    with torch.no_grad():
        assert call(model, {**x, "output_hidden_states": True}).hidden_states
        assert call(net.extract(1.0), x).logits.shape == call(model, x).logits.shape


@lru_cache
def cached_table(length: int, channels: int) -> Tensor:
    return torch.arange(length)[:, None].float() * torch.ones(channels)


TABLES: dict[tuple[int, int], Tensor] = {}
last_table: Tensor | None = None


def kept_table(length: int, channels: int) -> Tensor:
    global last_table
    if (length, channels) not in TABLES:
        TABLES[length, channels] = torch.ones(length, channels)
    if last_table is None or last_table.shape != (length, channels):
        last_table = TABLES[length, channels] * 2
    return last_table


class Tables(nn.Module):
    """Adds a table that its code keeps in global state."""

    def __init__(self, table: Callable[[int, int], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.table = nn.Linear(6, 16), nn.Linear(16, 3), table

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(h + self.table(*h.shape))


@pytest.mark.parametrize("table", [cached_table, kept_table])
def test_global_caches_of_code_keep_no_tensors_of_the_proof(table) -> None:
    model, x = Tables(table), torch.randn(4, 6)
    wanted = model(x)
    net = build(model, x, divisor=1)
    assert cached_table.cache_info().currsize <= 1
    assert list(TABLES) == ([(4, 16)] if table is kept_table else [])
    assert net.subnet(0.5)(x).dtype == torch.float32
    assert torch.equal(model(x), wanted)
