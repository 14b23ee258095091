"""Small timm models of different families: what is elastic; their subnets train and have the counted parameters."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

import anywidth as aw
from anywidth.batchnorm import share_statistics
from proofs import assert_close

# The name, the side of the images and settings that make a model small. Left out are families whose blocks the zoo has.
FAMILIES: list[tuple[str, int, dict[str, Any]]] = [
    ("vit_tiny_patch16_dinov3_qkvb", 64, {"depth": 2}),
    ("test_convnext", 64, {}),
    ("test_maxvit", 64, {"img_size": 64}),
    ("test_coatnet", 64, {"img_size": 64}),
    ("mobilevit_xxs", 64, {}),
    ("fastvit_t8", 64, {}),
    ("efficientformer_l1", 224, {"depths": (1, 1, 1, 2)}),
    ("levit_128s", 64, {"img_size": 64}),
    ("gmlp_ti16_224", 64, {"img_size": 64}),
    ("dla46_c", 64, {}),
    ("skresnet18", 64, {"layers": (1, 1, 1, 1)}),
    ("resnest14d", 64, {}),
    ("cs3darknet_focus_s", 64, {}),
    ("ghostnet_050", 64, {}),
    ("xcit_nano_12_p16_224", 64, {"depth": 2}),
    ("pvt_v2_b0", 64, {"depths": (1, 1, 1, 1)}),
    ("repvit_m0_9", 64, {}),
    ("fasternet_t0", 64, {}),
    ("shvit_s1", 64, {}),
    ("test_mambaout", 96, {}),
    ("eva02_tiny_patch14_224", 56, {"img_size": 56, "depth": 2}),
    ("swin_tiny_patch4_window7_224", 64, {"img_size": 64, "window_size": 4, "depths": (2, 2, 1, 1)}),
    ("resmlp_12_224", 64, {"img_size": 64}),
    ("test_nfnet", 64, {}),
    ("repvgg_a0", 64, {}),
    ("hrnet_w18_small", 64, {}),
    ("res2net50_14w_8s", 64, {"layers": (1, 1, 1, 1)}),
    ("mobilenetv4_conv_small_035", 64, {}),
    ("tresnet_m", 64, {"layers": (1, 1, 1, 1)}),
    ("hiera_tiny_224", 64, {"img_size": (64, 64), "stages": (1, 1, 1, 1)}),
    ("tiny_vit_5m_224", 224, {}),
    ("focalnet_tiny_srf", 64, {}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "small"), FAMILIES, ids=[name for name, *_ in FAMILIES])
def test_nearly_all_of_a_family_is_elastic_and_its_subnets_train(name: str, size: int, small: dict[str, Any]) -> None:
    model = timm.create_model(name, pretrained=False, num_classes=10, **small)
    net = aw.Supernet(model, torch.randn(2, 3, size, size))
    assert net.elastic_share >= 0.95, net.summary()
    uneven = {group.name: 0.3 + 0.1 * (number % 5) for number, group in enumerate(net.analysis.elastic)}
    for width in (net.min_width, uneven):
        net.model.zero_grad(set_to_none=True)
        logits = net.subnet(width).train()(torch.randn(2, 3, size, size))
        (logits[0] if isinstance(logits, tuple) else logits).square().mean().backward()
        gradients = [p.grad for p in net.model.parameters() if p.grad is not None]
        assert gradients
        assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
        dense = net.extract(width, calibrated=False)
        assert sum(parameter.numel() for parameter in dense.parameters()) == aw.params(net, width)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["repvgg_a0", "mobileone_s0", "repvit_m0_9", "fastvit_t8"])
def test_branches_are_fused_before_and_after_narrowing_alike(name: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    model = timm.create_model(name, pretrained=False, num_classes=10).double().eval()
    net = aw.Supernet(model, x)
    share_statistics(net, [0.5])
    dense = net.extract(0.5).eval()
    fused = timm.utils.reparameterize_model(dense).double()  # timm fuses into single precision
    assert sum(1 for _ in fused.modules()) < sum(1 for _ in dense.modules())
    with torch.no_grad():
        assert_close(fused(x), dense(x), 1e-4)

    net = aw.Supernet(timm.utils.reparameterize_model(model).double(), x)
    assert net.elastic_share >= 0.95, net.summary()
    with torch.no_grad():
        assert net.subnet(0.5).train()(x).shape == (2, 10)
