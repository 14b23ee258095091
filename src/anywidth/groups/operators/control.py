"""Control flow that depends on values: its branches and bodies are not analysed."""

from __future__ import annotations

from anywidth.groups.flow import Flow
from anywidth.groups.operators.registry import Call, Result, operator

__all__: list[str] = []


@operator("cond", "while_loop", "scan", "associative_scan", "map_impl", adds_up=False)
def control_flow(flow: Flow, call: Call) -> Result:
    """Freeze the channels of values that enter a branch or a loop."""
    for value in call.values():
        flow.freeze(value, f"enters torch.{flow.operator.removesuffix('_impl')} in {flow.module or 'the root module'}")
    return None
