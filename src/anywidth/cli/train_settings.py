"""What a training run is told; config.yaml of a run folder is these."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from anywidth.cli.options import SettingsError, option
from anywidth.cli.values import Widths, parse_optional_text, parse_switches, parse_widths
from anywidth.widths import Ends

__all__ = ["Device", "TrainSettings"]

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The options of `anywidth train`.

    Attributes:
        data: digits, cifar10, cifar100, fashion-mnist, npz:FILE, imagefolder:DIR, webdataset:DIR or hf:NAME
        data_root: folder of downloaded data sets
        image_size: height and width in pixels that images are resized to; by default their own, or for photographs of
            different sizes the median of the shorter sides, as a multiple of 32 up to 224
        model: digits, mobilenet_v1, mobilenet_v2, resnet18, ..., torchvision/NAME or timm/NAME
        init: start from these weights: a file of tensors by name (.safetensors, .pt) of the same model, such as
            supernet.safetensors of a run; the folder of a run; or hub for what timm or torchvision publish
        order: l1 puts the important channels of --init first, so that narrow widths start with them; by default l1, or
            none for what was trained at many widths already
        epochs: passes over the training images
        batch_size: images per batch, of each process where torchrun starts several
        accumulate: batches per step of the optimizer, whose gradients are averaged
        optimizer: sgd, which has Nesterov momentum 0.9, or any other of timm, such as adamw or lamb
        lr: peak learning rate, which the schedule takes down
        schedule: of the learning rate after warm-up: cosine, linear, or steps, to a tenth at 30, 60 and 90 percent
        weight_decay: of convolution and linear weights; by default 0.01 for digits and else 0.0001
        warmup_epochs: epochs in which the learning rate climbs in a line
        clip: largest norm of all gradients together; by default they are not clipped
        skip: leave out steps in which a loss is not finite, instead of stopping; 20 in a row stop all the same
        average: train as usual but keep the moving average of the weights with this decay, such as 0.999, or 0 for
            none; by default 0.99 for digits and else 0
        skip_corrupt: leave out images that cannot be read, and say how many after the epoch, instead of stopping
        mixup: mix images and their labels in pairs, with this alpha, such as 0.2
        cutmix: paste a part of another image into each, with this alpha, such as 1; with --mixup, one of both per batch
        rand_augment: change the training images by RandAugment of this magnitude as well, such as 9
        min_width: narrowest width; by default the model's own, or 0.25
        divisor: channels are rounded to multiples of this; by default the model's own, or 8
        samples: widths trained per step: the widest, the narrowest and random ones
        switches: train only these widths, all in every step, each with batch norms of its own: 0.25,0.5,0.75,1.0
        ends: of the widest and the narrowest, those in every step: both, widest, narrowest or none
        width_mult: build the model wider than its class says, such as 1.5; only for our own models
        hold_out: share of the training images that is not trained on but kept for anywidth search and for the score
            of four widths after every epoch, such as 0.1
        keep: the weights of the last epoch, or of the best by the mean score on --hold-out
        early_stop: stop when the mean score on --hold-out has not risen for this many epochs
        ladder: draw random widths from this many even ones instead of from all; with --compile and --graphs 8 by
            default, as each of them is compiled or recorded
        random: uniform random widths, or nonuniform ones, where every channel group has its own
        distillation: what narrow widths learn from: soft, the outputs of the widest, or none, the labels
        temperature: divides the outputs in distillation
        labels: how much of the loss on the labels is added to the distillation of narrow widths
        input_rescaling: scale sums over fewer input channels up, by full over active ones
        label_smoothing: share of every label that is spread over all classes; by default 0.1 with --from-search, else 0
        frozen: groups or modules whose channels are never narrowed, as glob patterns
        widths: how many widths to calibrate and evaluate, or which: 0.25,0.5,1.0
        individual: also train this many separate networks, alike, each at one width, and compare
        calibration_images: training images per width for batch-norm statistics; by default all
        from_search: train the network that anywidth search found, by the file that it wrote, from scratch, and a
            uniformly narrowed one of the same cost alike; options that are not given are those of the searched run
        budget: which of the budgets of --from-search, such as 20e6; not needed if there is one
        workers: processes that read images from disk, each with random changes of its own, so that another number is
            another training; by default one per core, up to 4
        seed: of weights, widths, batches and split
        tensorboard: also log every step to the run folder, for TensorBoard
        compile: compile every width that is trained, by torch.compile, which takes minutes and pays in long trainings
        graphs: run every width from a CUDA graph, which pays for small networks on a large GPU
        device: auto, cpu or cuda; auto takes a GPU if there is one
        precision: 32, bf16 or 16 bits in training; 16 needs a GPU
        out: run folder to write; by default runs/DATA-MODEL-TIME
        resume: continue the interrupted run RUN with its own settings
    """

    data: str = "digits"
    data_root: Path = Path("data")
    image_size: int | None = None
    model: str = "digits"
    init: str | None = field(default=None, metadata=option(metavar="FILE|hub"))
    order: Literal["l1", "none"] | None = field(default=None, metadata=option(metavar="KIND"))
    epochs: int = 60
    batch_size: int = 64
    accumulate: int = 1
    optimizer: str = "sgd"
    lr: float = 0.1
    schedule: Literal["cosine", "linear", "steps"] = field(default="cosine", metadata=option(metavar="KIND"))
    weight_decay: float | None = None
    warmup_epochs: float = 1.0
    clip: float | None = None
    skip: bool = False
    skip_corrupt: bool = False
    average: float | None = None
    mixup: float = 0.0
    cutmix: float = 0.0
    rand_augment: int | None = None
    min_width: float | None = None
    divisor: int | None = None
    samples: int = 4
    switches: tuple[float, ...] | None = field(default=None, metadata=option(parse=parse_switches, metavar="W,W,..."))
    width_mult: float = 1.0
    hold_out: float = 0.0
    keep: Literal["last", "best"] = field(default="last", metadata=option(metavar="WHICH"))
    early_stop: int | None = None
    ends: Ends = field(default="both", metadata=option(metavar="WHICH"))
    ladder: int | None = None
    random: Literal["uniform", "nonuniform"] = field(default="uniform", metadata=option(metavar="KIND"))
    distillation: Literal["soft", "none"] = field(default="soft", metadata=option(metavar="KIND"))
    temperature: float = 1.0
    labels: float = 0.0
    input_rescaling: bool = False
    label_smoothing: float | None = None
    frozen: tuple[str, ...] = field(default=(), metadata=option(metavar="PATTERN"))
    widths: Widths = field(default=16, metadata=option(parse=parse_widths, metavar="N|W,W,..."))
    individual: int = field(default=0, metadata=option(metavar="K"))
    calibration_images: int | None = None
    from_search: Path | None = field(default=None, metadata=option(metavar="FILE"))
    budget: str | None = field(default=None, metadata=option(parse=parse_optional_text, metavar="B"))
    workers: int | None = None
    seed: int = 0
    tensorboard: bool = False
    compile: bool = False
    graphs: bool = False
    device: Device = "auto"
    precision: Literal["32", "bf16", "16"] = "32"
    out: Path | None = field(default=None, metadata=option(metavar="DIR", kept=False))
    resume: Path | None = field(default=None, metadata=option(metavar="RUN", kept=False))

    def __post_init__(self) -> None:
        for name, low in (
            ("epochs", 1), ("batch_size", 1), ("samples", 2), ("individual", 0), ("calibration_images", 1),
            ("divisor", 1), ("workers", 0), ("accumulate", 1), ("early_stop", 1), ("rand_augment", 0),
            ("ladder", 2), ("image_size", 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < low:
                raise SettingsError(f"--{name.replace('_', '-')} is {value}; give at least {low}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise SettingsError(f"--temperature is {self.temperature:g}; give a number above 0")
        if not (math.isfinite(self.labels) and self.labels >= 0):
            raise SettingsError(f"--labels is {self.labels:g}; give 0 or more")
        if not (math.isfinite(self.width_mult) and self.width_mult > 0):
            raise SettingsError(f"--width-mult is {self.width_mult:g}; give a factor above 0, such as 1.5")
        if not 0 <= self.hold_out < 1:
            raise SettingsError(f"--hold-out is {self.hold_out:g}; give a share of the images below 1, such as 0.1")
        if not 0 <= self.smoothing < 1:
            raise SettingsError(f"--label-smoothing is {self.smoothing:g}; give a share below 1, such as 0.1")
        if self.budget is not None and self.from_search is None:
            raise SettingsError("--budget chooses among the networks of --from-search FILE; give that, too")
        if self.switches and self.min_width is not None and self.min_width != min(self.switches):
            raise SettingsError("--min-width is the narrowest of --switches; leave it out")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise SettingsError(f"--lr is {self.lr:g}; give a learning rate above 0, such as 0.1")
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise SettingsError(f"--{name} is {getattr(self, name):g}; give its alpha, 0 or more, such as 0.2")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise SettingsError(f"--clip is {self.clip:g}; give the largest norm of the gradients, above 0")
        if self.init is None and self.order == "l1":
            raise SettingsError("--order l1 sorts the weights that --init gives; new ones have no order")
        if self.init is not None and (self.individual or self.from_search):
            raise SettingsError("networks to compare start from new weights; leave out --init")
        if self.average is not None and not 0 <= self.average < 1:
            raise SettingsError(f"--average is {self.average:g}; give a decay between 0 and 1, such as 0.999")
        if self.average and self.switches:
            raise SettingsError("--average knows nothing of the batch norms of --switches; leave one of them out")
        if (self.keep == "best" or self.early_stop) and not self.hold_out:
            raise SettingsError("--keep best and --early-stop need images to decide by; give --hold-out 0.1")
        if (self.keep == "best" or self.early_stop) and (self.individual or self.from_search):
            raise SettingsError("networks to compare train for the same epochs; leave out --keep best and --early-stop")
        if (self.compile or self.graphs or self.ladder) and self.random == "nonuniform":
            raise SettingsError("--random nonuniform has too many networks for --ladder, --compile and --graphs")
        if self.ladder and self.switches:
            raise SettingsError("--switches are the only widths of their network; leave out --ladder")
        if self.weight_decay is not None and not 0 <= self.weight_decay < math.inf:
            raise SettingsError(f"--weight-decay is {self.weight_decay:g}; give 0 or more")
        if not 0 <= self.warmup_epochs <= self.epochs:
            raise SettingsError(
                f"--warmup-epochs is {self.warmup_epochs:g} of {self.epochs} epochs; give at most all of them"
            )

    @property
    def averaging(self) -> float:
        """The decay of the moving average of the weights, or 0; with so few images the last steps are mostly noise."""
        return (0.99 if self.data == "digits" and not self.switches else 0.0) if self.average is None else self.average

    @property
    def rungs(self) -> int:
        """How many even widths random ones are drawn from, or 0 for any width."""
        return self.ladder or (8 if (self.compile or self.graphs) and not self.switches else 0)

    @property
    def smoothing(self) -> float:
        """The share of every label that is spread over all classes; AutoSlim retrains with 0.1."""
        if self.label_smoothing is None:
            return 0.0 if self.from_search is None else 0.1
        return self.label_smoothing

    @property
    def decay(self) -> float:
        """The weight decay; the digits are so few that a network learns them by heart without more of it."""
        return (1e-2 if self.data == "digits" else 1e-4) if self.weight_decay is None else self.weight_decay
