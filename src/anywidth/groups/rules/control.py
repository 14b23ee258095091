"""Control flow that depends on values: the branches and bodies are not followed."""

from __future__ import annotations

from anywidth.groups.flow import Flow
from anywidth.groups.rules.registry import Call, Result, rule

__all__: list[str] = []


@rule("cond", "while_loop", "scan", "associative_scan", "map_impl")
def control_flow(flow: Flow, call: Call) -> Result:
    """What enters a branch or a loop keeps its channels."""
    for value in call.values():
        flow.freeze(value, f"enters torch.{flow.operator.removesuffix('_impl')} in {flow.module or 'the root module'}")
    return None
