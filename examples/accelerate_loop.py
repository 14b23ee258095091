"""The sandwich rule with Hugging Face Accelerate: mixed precision, accumulation, several processes.

accelerate launch examples/accelerate_loop.py
accelerate launch --cpu --num_processes 2 --mixed_precision bf16 examples/accelerate_loop.py
"""

from __future__ import annotations

import argparse

import torch
from accelerate import Accelerator

import anywidth as aw
from anywidth.data import load_data, make_loaders
from anywidth.models import build_model
from anywidth.training import parameter_groups, same_start, sync_gradients


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    epochs = parser.parse_args().epochs
    accelerator = Accelerator()
    rank, world = accelerator.process_index, accelerator.num_processes

    bundle = load_data("digits")
    loaders = make_loaders(bundle, batch_size=64 // world, rank=rank, world_size=world)
    model = build_model("digits", num_classes=len(bundle.classes), input_shape=bundle.input_shape)
    net = aw.Supernet(model, torch.zeros(1, *bundle.input_shape), divisor=1)
    net.model.to(accelerator.device)
    same_start(net.model)
    # Do not prepare the model: its wrapper would not see the narrow widths.
    optimizer = accelerator.prepare(
        torch.optim.SGD(parameter_groups(net.model, 0.01), lr=0.1, momentum=0.9, nesterov=True)
    )
    loss = torch.zeros(())
    for epoch in range(epochs):
        loaders.train.sampler.set_epoch(epoch)
        for images, labels in loaders.train:
            optimizer.zero_grad()
            with accelerator.autocast():
                loss = aw.sandwich_step(
                    net, images.to(accelerator.device), labels.to(accelerator.device), backward=accelerator.backward
                ).losses[0]
            sync_gradients(net.model.parameters())
            optimizer.step()
        accelerator.print(f"epoch {epoch + 1}: loss {loss:.3f} at the widest")

    aw.calibrate(net, loaders.calibration, [0.25, 0.5, 1.0])
    accelerator.print(aw.spectrum(net, loaders.test, [0.25, 0.5, 1.0]).csv())
    accelerator.end_training()


if __name__ == "__main__":
    main()
