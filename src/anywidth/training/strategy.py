"""Lightning strategy to train a supernet in several processes."""

from __future__ import annotations

from typing import Any, cast

from lightning.pytorch.strategies import DDPStrategy

from anywidth.core.gradient_sync import same_start

__all__ = ["SandwichStrategy"]


class SandwichStrategy(DDPStrategy):
    """Lightning's strategy for data-parallel training, with one synchronization of the gradients per step.

    `DistributedDataParallel` would reduce gradients in one backward pass of a step but not in the others. Therefore the
    module is not wrapped; `SandwichModule` and `PlainModule` reduce the sum over all widths once. The arguments are
    those of Lightning's `DDPStrategy`.

    >>> from lightning.pytorch import Trainer
    >>> trainer = Trainer(strategy=SandwichStrategy(), devices=2, accelerator="cpu")  # doctest: +SKIP
    """

    def configure_ddp(self) -> None:
        """Copy the weights and the width sampler of process 0 to every process."""
        module = cast(Any, self.lightning_module)
        net = getattr(module, "net", None)
        if net is None:
            same_start(module)
            return
        state = same_start(module, net.sampler.state_dict(), others=net.switch_state().values())
        if state is not None:
            net.sampler.load_state_dict(state)
