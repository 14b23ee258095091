"""Memory that operators read and write in a sandwich step, and in its networks trained separately, under autocast.

`tests/training/test_autocast.py` runs it in a separate process. It prints two numbers of bytes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import anywidth as aw
from anywidth.models import build_model, channels_last_
from anywidth.training import soft_cross_entropy

WIDTHS = (1.0, 0.25, 0.5)


class Traffic(TorchDispatchMode):
    """Counts the bytes that operators read and write."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = [t for t in torch.utils._pytree.tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
        if not func.is_view:
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        return result


def main() -> None:
    torch.manual_seed(0)
    model = channels_last_(build_model("resnet18", num_classes=10, input_shape=(3, 8, 8)))
    net = aw.Supernet(model.train(), torch.randn(2, 3, 8, 8))
    dense = [channels_last_(net.extract(width, calibrated=False).train()) for width in WIDTHS]
    x, y = torch.randn(2, 3, 8, 8), torch.tensor([3, 5])

    def together() -> None:
        aw.sandwich_step(net, x, y, widths=WIDTHS)

    def apart() -> None:
        teacher: Tensor | None = None
        for network in dense:
            output = network(x)
            loss = F.cross_entropy(output, y) if teacher is None else soft_cross_entropy(output, teacher)
            loss.backward()
            teacher = output.detach() if teacher is None else teacher

    moved = [0, 0]
    for number, (work, networks) in enumerate(((together, [model]), (apart, dense))):
        for _ in range(2):
            for network in networks:
                network.zero_grad()
            traffic = Traffic()
            with traffic, torch.autocast("cpu", torch.bfloat16):
                work()
            moved[number] = traffic.bytes
    print(*moved)


if __name__ == "__main__":
    main()
