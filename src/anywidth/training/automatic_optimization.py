"""Check for Lightning modules that let Lightning run backward."""

from __future__ import annotations

import sys

from anywidth.core.errors import TrainingError

__all__ = ["check_manual_optimization"]

_CALLERS = 12


def check_manual_optimization() -> None:
    """Raise if the caller is the `training_step` of a Lightning module with automatic optimization.

    Lightning would run backward on the result of `training_step`, but a sandwich step has already run every backward
    pass, and its losses are detached. The check inspects the calling frames, and only if Lightning is imported.

    Raises:
        TrainingError: the caller uses automatic optimization; the message shows the fix.
    """
    if "lightning" not in sys.modules and "pytorch_lightning" not in sys.modules:
        return
    frame = sys._getframe(1)
    for _ in range(_CALLERS):
        if frame is None:
            return
        if frame.f_code.co_name == "training_step":
            module = frame.f_locals.get(frame.f_code.co_varnames[0]) if frame.f_code.co_argcount else None
            if getattr(module, "automatic_optimization", False) is True:
                name = type(module).__name__
                raise TrainingError(
                    f"{name} uses Lightning's automatic optimization, but sandwich_step runs backward itself, so that "
                    f"{name}.training_step has no loss to return. Set self.automatic_optimization = False in __init__ "
                    "and write: optimizer = self.optimizers(); optimizer.zero_grad(); sandwich_step(net, inputs, "
                    "targets, backward=self.manual_backward); optimizer.step(). Or use "
                    "anywidth.training.lightning.SandwichModule"
                )
            return
        frame = frame.f_back
