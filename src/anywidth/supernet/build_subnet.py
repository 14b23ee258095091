"""Build the subnet of a width, with the statistics and buffers of that width and a check of them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.instancenorm import _InstanceNorm

from anywidth.groups.written import empty_
from anywidth.supernet.frozen_norms import norms_of
from anywidth.supernet.hook import SubnetHook
from anywidth.supernet.input_rescaling import rescale_inputs_
from anywidth.supernet.own_buffers import batch_statistics
from anywidth.supernet.record import SubnetRecord, record_of
from anywidth.supernet.statistics import norm_modules
from anywidth.supernet.subnet import bind_subnet
from anywidth.supernet.tracked_state import TrackedState
from anywidth.supernet.unreached import explain_unreached
from anywidth.widths import WidthConfig

__all__ = ["build_subnet"]


@torch.inference_mode(False)
def build_subnet(tracked: TrackedState, config: WidthConfig) -> nn.Module:
    """A new subnet, whose forward raises in evaluation mode if the width has no up-to-date statistics.

    Args:
        tracked: The state of the supernet, which the check asks at every forward.
        config: The width.
    """
    state = tracked.state
    model, analysis = state.model, state.analysis
    subnet = bind_subnet(model, analysis, config, state.own_tensor(config))
    record = record_of(subnet)
    assert record is not None
    rescale_inputs_(model, subnet, state.rescaled_layers)
    if state.switches is None:  # batch norms use the statistics of the batch in training, and store none
        for norm in norm_modules(subnet).values():
            if isinstance(norm, _InstanceNorm):  # which would not use what it has either
                norm.momentum = 0.0
            else:
                norm.track_running_stats = False  # type: ignore[assignment]
    explain_unreached(model, subnet, state.effects.unreached)
    if analysis.caches_weights:
        written = analysis.written
        subnet.register_forward_pre_hook(SubnetHook(lambda subnet: empty_(subnet, written)))
    state.own_buffers.bind(config, subnet)
    batch_statistics(subnet, [name for pair in state.effects.norms for name in pair])
    norms = [norm for norm, _ in norms_of(subnet, state.statistics).values()]
    if norms:
        record.set_norms(norms)
        subnet.register_forward_pre_hook(SubnetHook(lambda subnet: _guard(tracked, subnet, record)))
    tracked.watch_hooks(subnet, config, norms=lambda: record.norms)
    return subnet


def _guard(tracked: TrackedState, subnet: nn.Module, record: SubnetRecord) -> None:
    # Under dynamo there is no error; the NaN statistics of an uncalibrated width speak for themselves.
    if torch.compiler.is_dynamo_compiling():
        return
    norms = record.norms
    if all(norm.training for norm in norms):
        return
    state = tracked.state  # without looking for changes: a subnet that was returned stays what it was
    if subnet.training:
        state.frozen_norms.prepare(record.config, norms)
    elif not state.statistics.is_ready(record.config):
        state.statistics.check(record.config)
