"""Run by `torchrun` in `test_torchrun.py`: `anywidth` with a fault, argv[1], that writes its weights into argv[2]."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from anywidth.cli import main
from anywidth.core.errors import DataError
from anywidth.evaluation import spectrum
from anywidth.runs import supernet_run
from anywidth.training.lightning import PlainModule, SandwichModule

FAULT, FOLDER = sys.argv.pop(1), Path(sys.argv.pop(1))
RANK = int(os.environ["RANK"])
step, plain_step = SandwichModule.training_step, PlainModule.training_step


def training_step(self: SandwichModule, batch: Any, index: int) -> Any:
    """As ever, with a fault in the second epoch, or after another."""
    if index == 0 and f"after epoch {self.current_epoch}" == FAULT:
        raise DataError("that is enough")
    if FAULT == "all weights are lost after epoch 3" and self.current_epoch >= 3:
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
    if self.current_epoch == 1 and index == 1:
        if FAULT == "interrupted":
            os.kill(os.getpid(), signal.SIGINT)
        if FAULT == "one is ended" and RANK == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if FAULT == "one is killed" and RANK == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if FAULT == "one fails" and RANK == 1:
            raise DataError("cannot read image x.png; remove it")
        if FAULT == "all fail":
            raise DataError("cannot read image x.png; remove it")
    return step(self, batch, index)


def plain_training_step(self: PlainModule, batch: Any, index: int) -> Any:
    """As ever; the last epoch of the second network is interrupted, if that is the fault."""
    if FAULT == "the second network is interrupted" and self.current_epoch == 2 and list(FOLDER.glob("*/found.*")):
        os.kill(os.getpid(), signal.SIGINT)
    return plain_step(self, batch, index)


def weighed(net: Any, *arguments: Any, **options: Any) -> Any:
    """The spectrum, and the weights of this process in a file."""
    torch.save(dict(net.model.named_parameters()), FOLDER / f"rank{RANK}.pt")
    return spectrum(net, *arguments, **options)


SandwichModule.training_step, PlainModule.training_step = training_step, plain_training_step
setattr(supernet_run, "spectrum", weighed)  # noqa: B010 - a name that the module only imports
raise SystemExit(main())
