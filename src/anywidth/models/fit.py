"""Check that a model accepts the images of a dataset and returns its logits."""

from __future__ import annotations

import torch
from torch import nn

from anywidth.core.errors import ModelError

__all__ = ["check_fit"]


def check_fit(model: nn.Module, *, name: str, num_classes: int, input_shape: tuple[int, int, int]) -> None:
    """Run one empty image through a model in evaluation mode; its train/eval modes are restored.

    Raises:
        ModelError: the forward pass fails, or does not return a (1, num_classes) tensor.

    >>> check_fit(nn.Flatten(), name="flat", num_classes=12, input_shape=(3, 2, 2))
    """
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            logits = model(torch.zeros(1, *input_shape))
    except Exception as error:
        raise ModelError(f"{name} does not run on images of {input_shape}: {error}") from error
    finally:
        for module, flag in training.items():
            module.training = flag
    shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if shape != (1, num_classes):
        raise ModelError(f"{name} returns {shape} for one image; it must return logits of shape (1, {num_classes})")
