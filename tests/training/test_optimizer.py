"""Weight decay of the papers: ordinary convolution and linear weights only."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from anywidth.training import parameter_groups
from zoo import Case, cases, find


@pytest.mark.parametrize("case", cases(few=True))
def test_every_parameter_is_in_one_group(case: Case) -> None:
    model = case.model()
    decayed, rest = (group["params"] for group in parameter_groups(model, 0.1))
    assert len({id(p) for p in (*decayed, *rest)}) == len(decayed) + len(rest) == len(list(model.parameters()))
    torch.optim.SGD(parameter_groups(model, 0.1), lr=0.1)


def test_depthwise_norms_and_biases_are_not_decayed() -> None:
    model = find("inverted residuals").model()
    decayed, rest = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    chosen = {id(parameter) for parameter in decayed["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in chosen}
    wanted = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    }
    assert names == wanted
    assert len(names) == 8


def test_convolutions_of_few_groups_and_of_one_channel_are_ordinary() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3, groups=2), nn.Conv2d(1, 4, 3), nn.ConvTranspose2d(8, 8, 3, groups=8))
    decayed, rest = (group["params"] for group in parameter_groups(model, 0.1))
    assert [id(p) for p in decayed] == [id(model[0].weight), id(model[1].weight)]
    assert len(rest) == 4


def test_shared_and_parametrized_weights() -> None:
    model = find("tied weights").model()
    decayed, rest = (group["params"] for group in parameter_groups(model, 0.1))
    assert (len(decayed), len(rest)) == (2, 3)
    computed = nn.Sequential(weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    decayed, _ = (group["params"] for group in parameter_groups(computed, 0.1))
    assert all(parameter.is_leaf for parameter in decayed)
    assert any(parameter is computed[1].weight for parameter in decayed)
