"""The sandwich rule in a plain loop, also in several processes, each on its own GPU or all on the CPU.

python examples/plain_loop.py
torchrun --nproc-per-node 2 examples/plain_loop.py
"""

from __future__ import annotations

import argparse
import os

import torch
import torch.distributed as dist

import anywidth as aw
from anywidth.data import load_data, make_loaders
from anywidth.models import build_model
from anywidth.training import parameter_groups, same_start, sync_gradients


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    epochs = parser.parse_args().epochs
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    if world > 1:
        dist.init_process_group("gloo" if device == "cpu" else "cpu:gloo,cuda:nccl")

    bundle = load_data("digits")
    loaders = make_loaders(bundle, batch_size=64 // world, rank=rank, world_size=world)
    model = build_model("digits", num_classes=len(bundle.classes), input_shape=bundle.input_shape)
    net = aw.Supernet(model.to(device), torch.zeros(1, *bundle.input_shape, device=device), divisor=1)
    same_start(model, net.sampler.state_dict())  # the same weights and random widths in all processes

    optimizer = torch.optim.SGD(parameter_groups(model, 0.01), lr=0.1, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=epochs * len(loaders.train))
    losses = torch.zeros(4)
    for epoch in range(epochs):
        loaders.train.sampler.set_epoch(epoch)
        for images, labels in loaders.train:
            optimizer.zero_grad()
            losses = aw.sandwich_step(net, images.to(device), labels.to(device)).losses  # widest, narrowest, two random
            sync_gradients(model.parameters())  # once for all widths
            optimizer.step()
            schedule.step()
        if rank == 0:
            print(f"epoch {epoch + 1}: loss {losses[0]:.3f} at the widest")

    aw.calibrate(net, loaders.calibration, [0.25, 0.5, 1.0])  # pools the moments of all processes
    curve = aw.spectrum(net, loaders.test, [0.25, 0.5, 1.0])
    if rank == 0:
        print(curve.csv())
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
