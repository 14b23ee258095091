"""`anywidth` with a fault, in one of two processes that train together, for `cli/test_torchrun.py`."""

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

step, plain_step = SandwichModule.training_step, PlainModule.training_step


def program(fault: str, folder: Path, *arguments: str) -> int:
    """The exit code of a command with a fault, whose process writes its weights into a folder."""
    rank = int(os.environ["RANK"])

    def training_step(self: SandwichModule, batch: Any, index: int) -> Any:
        """As ever, with a fault in the second epoch, or after another."""
        if index == 0 and f"after epoch {self.current_epoch}" == fault:
            raise DataError("that is enough")
        if fault == "all weights are lost after epoch 3" and self.current_epoch >= 3:
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.zero_()
        if self.current_epoch == 1 and index == 1:
            if fault == "interrupted":
                os.kill(os.getpid(), signal.SIGINT)
            if fault == "one is ended" and rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            if fault == "one is killed" and rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "one fails" and rank == 1:
                raise DataError("cannot read image x.png; remove it")
            if fault == "all fail":
                raise DataError("cannot read image x.png; remove it")
        return step(self, batch, index)

    def plain_training_step(self: PlainModule, batch: Any, index: int) -> Any:
        """As ever; the last epoch of the second network is interrupted, if that is the fault."""
        if fault == "the second network is interrupted" and self.current_epoch == 2 and list(folder.glob("*/found.*")):
            os.kill(os.getpid(), signal.SIGINT)
        return plain_step(self, batch, index)

    def weighed(net: Any, *arguments: Any, **options: Any) -> Any:
        """The spectrum, and the weights of this process in a file."""
        torch.save(dict(net.model.named_parameters()), folder / f"rank{rank}.pt")
        return spectrum(net, *arguments, **options)

    SandwichModule.training_step, PlainModule.training_step = training_step, plain_training_step
    setattr(supernet_run, "spectrum", weighed)  # noqa: B010 - a name that the module only imports
    return main(arguments)


if __name__ == "__main__":  # started by torchrun
    raise SystemExit(program(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
