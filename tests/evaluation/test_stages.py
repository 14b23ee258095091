"""The stages of a network, and networks that are narrow in one of them."""

from __future__ import annotations

import pytest
import torch

import anywidth as aw
from anywidth.core.errors import WidthError
from anywidth.evaluation import stages, widths_by_stage
from anywidth.models import build_model
from zoo import CASES, Case, cases


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("resnet20", ["stem", "stages.0", "stages.1", "stages.2"]),
        ("digits", ["stem", *(f"features.{i}" for i in range(2))]),
    ],
)
def test_stages_are_what_a_person_calls_so(model: str, names: list[str]) -> None:
    net = aw.Supernet(build_model(model, num_classes=4, input_shape=(3, 16, 16)), torch.randn(1, 3, 16, 16))
    assert [name for name in stages(net) if name in names] == [name for name in names if name in stages(net)]
    assert set(stages(net)) <= set(names)
    assert len(stages(net)) >= len(names) - 1


@pytest.mark.parametrize("case", cases(few=True))
def test_every_elastic_group_is_in_one_stage(case: Case, supernet_of) -> None:
    net = supernet_of(case)
    found = [name for groups in stages(net).values() for name in groups]
    assert sorted(found) == sorted(group.name for group in net.analysis.elastic)


def test_one_stage_is_narrow_and_the_others_are_at_the_base(supernet_of) -> None:
    net = supernet_of(CASES[0])
    for base in (1.0, 0.75):
        for stage, width in widths_by_stage(net, 0.5, base=base).items():
            config = net.config(width)
            for name, groups in stages(net).items():
                uniform = net.config(base * 0.5 if name == stage else base)
                assert all(config[group] == uniform[group] for group in groups)
    with pytest.raises(WidthError, match="1 times 0.1"):
        widths_by_stage(net, 0.1)
