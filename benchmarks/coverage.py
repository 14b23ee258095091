"""Elastic share, time of the analysis and frozen channels of many models.

    uv run python benchmarks/coverage.py [--only 'timm/*'] [--resume] [--times] [--jobs 1]

The models are all image classifiers, segmentation models and detection backbones of torchvision, the timm models of
`coverage_timm.txt` (some of every family, small ones first), and transformer classifiers from configs of Hugging Face,
all with new weights. Each runs in a separate process: the supernet is built and its groups are proved, the narrowest
and random nonuniform subnets run forward and backward in training, and the parameters of the extracted networks are
checked against the counts. The benchmark writes `results/coverage.csv` after every model, and `docs/coverage.md` at the
end. Seconds are those of the analysis, without the two seconds of imports by the first `torch.export` of a process.
`--times` only measures the seconds and memory of the models in the table again.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import resource
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.utils._pytree as pytree
import torchvision
from coverage_page import write_page
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

import anywidth as aw

HERE = Path(__file__).parent
COLUMNS = (
    "model", "family", "status", "mparams", "gmacs", "groups", "frozen", "elastic_macs", "params_half", "params_min",
    "seconds", "peak_mb", "reasons",
)  # fmt: skip
LIMIT_S = 600.0
_IMAGE = 224

Build = Callable[[], tuple[nn.Module, Any]]
Measure = Callable[[Build], dict[str, Any]]


def torchvision_classifiers() -> Iterator[tuple[str, str, Build]]:
    """All image classifiers of torchvision."""
    for name in torchvision.models.list_models(module=torchvision.models):
        yield f"torchvision/{name}", "classifier", partial(_torchvision, name)


def _torchvision(name: str) -> tuple[nn.Module, Any]:
    settings: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    size = 299 if name == "inception_v3" else _IMAGE
    return torchvision.models.get_model(name, weights=None, **settings), torch.randn(1, 3, size, size)


def torchvision_others() -> Iterator[tuple[str, str, Build]]:
    """Segmentation models, and the backbones of the detection models."""
    for name in torchvision.models.list_models(module=torchvision.models.segmentation):
        yield f"torchvision/{name}", "segmentation", partial(_segmentation, name)
    for name in torchvision.models.list_models(module=torchvision.models.detection):
        yield f"torchvision/{name}.backbone", "detection backbone", partial(_backbone, name)


def _segmentation(name: str) -> tuple[nn.Module, Any]:
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=21)
    return model, torch.randn(1, 3, _IMAGE, _IMAGE)


def _backbone(name: str) -> tuple[nn.Module, Any]:
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    return model.get_submodule("backbone"), torch.randn(1, 3, 320, 320)


def timm_models() -> Iterator[tuple[str, str, Build]]:
    """The timm models of the list next to this file."""
    for line in (HERE / "coverage_timm.txt").read_text().splitlines():
        family, *names = line.split()
        for name in names:
            yield f"timm/{name}", family, partial(_timm, name)


def _timm(name: str) -> tuple[nn.Module, Any]:
    model = timm.create_model(name, pretrained=False)
    if model.num_classes == 0:  # a backbone, whose features are its output, so that they stay whole
        model = timm.create_model(name, pretrained=False, num_classes=1000)
    return model, torch.randn(1, *resolve_model_data_config(model)["input_size"])


def transformers_models() -> Iterator[tuple[str, str, Build]]:
    """Text and image classifiers of Hugging Face, with default sizes but four layers."""
    text = ("Bert", "Roberta", "DistilBert", "Electra", "MPNet", "Albert", "Llama", "Qwen2")
    images = ("ViT", "DeiT", "Beit", "Dinov2", "ViTMSN", "ConvNext", "Swin", "ResNet", "MobileViT", "Segformer")
    for name in text:
        yield f"transformers/{name}", "text classifier", partial(_transformers, name, "SequenceClassification", True)
    for name in images:
        yield f"transformers/{name}", "image classifier", partial(_transformers, name, "ImageClassification", False)


def _transformers(name: str, task: str, text: bool) -> tuple[nn.Module, Any]:
    import transformers

    config = getattr(transformers, f"{name}Config")()
    if isinstance(getattr(config, "num_hidden_layers", None), int) and not isinstance(
        getattr(type(config), "num_hidden_layers", None), property
    ):
        config.num_hidden_layers = 4
    if name in ("Llama", "Qwen2"):  # grouped-query attention at a size that fits
        config.hidden_size, config.intermediate_size, config.vocab_size, config.pad_token_id = 512, 1376, 8192, 0
        config.num_attention_heads, config.num_key_value_heads = 8, 4
        config.head_dim = 64
    config.use_cache = False
    model = getattr(transformers, f"{name}For{task}")(config)
    if text:
        return model, {"input_ids": torch.randint(1, 1000, (2, 32))}
    size = getattr(config, "image_size", _IMAGE)
    return model, {"pixel_values": torch.randn(1, 3, size, size)}


def analyse(build: Build) -> tuple[aw.Supernet, dict[str, Any]]:
    """The supernet of one model, with the seconds and memory of its analysis."""
    torch.manual_seed(0)
    model, inputs = build()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = aw.Supernet(model, inputs)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return net, {"status": "ok", "seconds": round(seconds, 2), "peak_mb": round(peak / 1024)}


def times(build: Build) -> dict[str, Any]:
    """Seconds and memory of the analysis of one model."""
    return analyse(build)[1]


def examine(build: Build) -> dict[str, Any]:
    """The row of one model; raises if any check fails."""
    net, cost = analyse(build)
    rng = np.random.default_rng(0)
    draws = [{g.name: float(rng.uniform(net.min_width, 1)) for g in net.analysis.elastic} for _ in range(2)]
    for config in [net.config(net.min_width), net.config(0.5), *map(net.config, draws)]:
        _check(net, config)
    full = aw.params(net)
    made = [g for g in net.groups if g.frozen and "reaches the output" not in g.frozen]
    reasons = Counter(str(g.frozen).split(": ")[0][:90] for g in made)
    return {
        **cost,
        "mparams": round(full / 1e6, 2),
        "gmacs": round(aw.macs(net) / 1e9, 3),
        "groups": len(net.analysis.elastic),
        "frozen": len(made),
        "elastic_macs": round(net.elastic_share, 4),
        "params_half": round(aw.params(net, 0.5) / full, 4),
        "params_min": round(aw.params(net, net.min_width) / full, 4),
        "reasons": "; ".join(f"{text} ({number})" for text, number in reasons.most_common(4)),
    }


def _check(net: aw.Supernet, config: aw.WidthConfig) -> None:
    """Run a subnet forward and backward, and compare its extracted network to the counted parameters."""
    net.model.zero_grad(set_to_none=True)
    inputs = net.inputs.map(lambda t: torch.cat([t, t]) if t.ndim and t.shape[0] == 1 else t)
    outputs = [t for t in pytree.tree_leaves(inputs.call(net.subnet(config).train())) if isinstance(t, Tensor)]
    loss = sum(t.float().square().mean() for t in outputs if t.requires_grad)
    assert isinstance(loss, Tensor)
    assert bool(torch.isfinite(loss)), "the loss is not finite"
    loss.backward()
    assert any(p.grad is not None for p in net.model.parameters()), "no gradients"
    dense = net.extract(config, calibrated=False)
    counted = sum(p.numel() for p in dense.parameters())
    assert counted == aw.params(net, config), f"{counted} parameters, counted {aw.params(net, config)}"


def _child(measure: Measure, build: Build, threads: int, pipe: Connection) -> None:
    torch.set_num_threads(threads)
    try:
        row = measure(build)
    except BaseException as error:
        text = " ".join(str(error).split())[:300]
        row = {"status": f"{type(error).__name__}: {text}"}
    pipe.send(row)


def apart(measure: Measure, build: Build, threads: int) -> dict[str, Any]:
    """`examine` or `times` in a separate process, which may crash or hang."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(measure, build, threads, theirs))
    process.start()
    theirs.close()
    row: dict[str, Any] = {"status": f"no result within {LIMIT_S:g} s"}
    try:
        if ours.poll(LIMIT_S):
            row = ours.recv()
    except EOFError:
        process.join()
        row = {"status": f"the process ended with {process.exitcode}"}
    process.kill()
    process.join()
    return row


def main() -> None:
    """Examine, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="a glob pattern of models")
    parser.add_argument("--resume", action="store_true", help="keep the rows of the table that are ok")
    parser.add_argument("--times", action="store_true", help="measure seconds and memory of the table's models anew")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time; seconds are right with 1 only")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "coverage.csv")
    arguments = parser.parse_args()
    table: dict[str, dict[str, Any]] = {}
    if (arguments.resume or arguments.times) and arguments.out.exists():
        table = {row["model"]: row for row in csv.DictReader(arguments.out.open()) if row["status"] == "ok"}
    work = [
        entry
        for source in (torchvision_classifiers, torchvision_others, timm_models, transformers_models)
        for entry in source()
        if fnmatchcase(entry[0], arguments.only) and (entry[0] in table) == arguments.times
    ]
    torch.export.export(nn.Identity(), (torch.zeros(1),), strict=False)
    threads = max(1, torch.get_num_threads() // arguments.jobs)

    def one(entry: tuple[str, str, Build]) -> None:
        name, family, build = entry
        found = apart(times if arguments.times else examine, build, threads)
        row = {**table.get(name, {}), "model": name, "family": family, **found}
        table[name] = row
        print(
            f"{len(table):>4} {name:<52}{row.get('elastic_macs', ''):>8}{row.get('params_half', ''):>8}"
            f"{row.get('seconds', ''):>8}  {row['status'][:110]}",
            flush=True,
        )
        _write(arguments.out, table)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(one, work))
    rows = [{key: str(value) for key, value in table[name].items()} for name in sorted(table)]
    good = [row for row in rows if row["status"] == "ok"]
    print(f"{len(good)} of {len(rows)} build and run", end="")
    if good:
        print(f"; median analysis {statistics.median(float(row['seconds']) for row in good):.2f} s", end="")
    print()
    if arguments.only == "*":
        print("written to", write_page(rows, HERE.parent / "docs" / "coverage.md", jobs=arguments.jobs))


def _write(path: Path, table: dict[str, dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: row.get(key, "") for key in COLUMNS} for _, row in sorted(table.items()))


if __name__ == "__main__":
    main()
