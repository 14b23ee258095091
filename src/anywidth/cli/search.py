"""`anywidth search`: find the best channel numbers within budgets, from the supernet of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from anywidth.core.errors import SettingsError
from anywidth.runs.options import option
from anywidth.runs.run_folder import RunFolder
from anywidth.runs.settings import Device
from anywidth.runs.values import parse_budget_list

if TYPE_CHECKING:
    from rich.console import Console

    from anywidth.cost import LatencyModel
    from anywidth.runs.open_run import OpenRun
    from anywidth.search import Scorer, SearchData, SearchResult

__all__ = ["SearchCommandSettings", "run"]


@dataclass(frozen=True, kw_only=True)
class SearchCommandSettings:
    """The options of `anywidth search`."""

    run: Path = option(
        positional=True,
        metavar="RUN",
        help="folder that anywidth train wrote, preferably with --width-sampling nonuniform --hold-out 0.1",
    )
    budgets: tuple[str, ...] = option(
        parse=parse_budget_list,
        metavar="B,B,...",
        help="cost limits: 30e6,20M or 20ms, a share of the widest network such as 50%, or an interval such as "
        "90M-100M",
    )
    method: str = option("greedy", metavar="NAME", help="search method: greedy (AutoSlim), evolution or random")
    evaluations: int = option(200, help="number of networks to score in evolution and random search")
    seed: int = option(0, help="random seed of evolution and random search")
    cost: Literal["macs", "params", "memory", "latency", "latency-compiled", "latency-onnx"] = option(
        "macs",
        metavar="NAME",
        help="cost that the budgets limit: macs, params, memory (bytes of activations), latency, latency-compiled or "
        "latency-onnx (milliseconds)",
    )
    latency_model: Path | None = option(
        None,
        metavar="FILE",
        help="latency model file; if missing, it is built by measuring subnets; by default RUN/COST.json",
    )
    objective: Literal["score", "per-cost"] = option(
        "score",
        metavar="NAME",
        help="criterion for removing channels: score (the least score lost), or per-cost (score lost per cost saved)",
    )
    step_fraction: float = option(0.1, help="share of a group's channels to remove per step")
    calibration_images: int = option(2048, help="training images for the batch-norm statistics of each candidate")
    held_out_images: int = option(5000, help="maximum number of held-out images to score each candidate on")
    memory: float = option(2e9, help="memory for cached activations, in bytes")
    out: Path | None = option(
        None,
        metavar="FILE",
        help="JSON file to write, with a log of the steps (.csv) and a picture (.png) next to it; by default "
        "RUN/search-COST.json, or RUN/search-COST-METHOD.json if the method is not greedy",
    )
    device: Device = option("auto", help="auto, cpu or cuda")
    data_root: Path | None = option(None, help="folder of downloaded datasets, if it moved after training")

    def __post_init__(self) -> None:
        for name, low in (("calibration_images", 2), ("held_out_images", 1), ("evaluations", 1)):
            if getattr(self, name) < low:
                raise SettingsError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give at least {low}")
        if self.out is not None and self.out.suffix != ".json":
            raise SettingsError(f"--out {self.out} has an unknown format; use a name that ends in .json")


def run(settings: SearchCommandSettings) -> int:
    """Search for the most accurate network within every budget."""
    RunFolder.open(settings.run)  # a wrong path need not wait for the imports below
    from dataclasses import replace

    from rich.console import Console

    from anywidth.cli.messages import log
    from anywidth.cli.search_progress import SearchProgress
    from anywidth.core.errors import MissingExtraError
    from anywidth.report import search_table
    from anywidth.runs.config_file import write_settings
    from anywidth.runs.costs import cost_by_name
    from anywidth.runs.open_run import open_run
    from anywidth.runs.threads import fitting_threads
    from anywidth.search import METHODS, Scorer, SearchSettings, search
    from anywidth.widths import parse_budgets

    console = Console(highlight=False)
    parse_budgets(settings.budgets)
    METHODS.find(settings.method)
    asked = SearchSettings(objective=settings.objective, step_fraction=settings.step_fraction, memory=settings.memory)
    by = "" if settings.method == "greedy" else f"-{settings.method}"
    out = settings.out or settings.run / f"search-{settings.cost}{by}.json"
    if out.exists():
        raise SettingsError(f"{out} already contains search results; choose another file with --out, or remove it")
    opened = open_run(settings.run, device=settings.device, data_root=settings.data_root)
    data = _data(settings, opened, console)
    state = out.with_suffix(".state.json")
    with fitting_threads(opened.net, settings.calibration_images):
        model = _latency_model(settings, opened, console) if settings.cost.startswith("latency") else None
        scorer = Scorer(opened.net, data, cost_by_name(settings.cost, model), settings=asked, state=state)
        if scorer.state.scores:
            console.print(f"continuing with {len(scorer.state.scores)} scored networks from {state}", soft_wrap=True)
        try:
            with SearchProgress(console, scorer.cost, scorer.quantity) as progress:
                result = search(
                    scorer, settings.budgets, settings.method, evaluations=settings.evaluations, seed=settings.seed,
                    progress=progress,
                )  # fmt: skip
        except KeyboardInterrupt:
            known = len(scorer.state.scores)
            log("interrupted", f"{known} scored networks are kept in {state}; run the same command to continue")
            return 130
    config = write_settings(opened.settings, header=f"of the run {settings.run}")
    about = {**result.about, "run": str(settings.run), "config": config}
    result = replace(result, about=about if model is None else {**about, "latency_model": model.as_json()})
    names = str(out)
    if result.steps:
        result.to_csv(out.with_suffix(".csv"))
        names += f", {out.with_suffix('.csv').name}"
    try:
        result.plot(out.with_suffix(".png"), title=f"{type(opened.net.model).__name__} on {opened.data.name}")
        names += f", {out.with_suffix('.png').name}"
    except MissingExtraError as error:
        log("warning", f"picture was not drawn: {error}")
    result.to_json(out)
    state.unlink(missing_ok=True)
    console.print(search_table(result, _uniform(scorer, result)))
    console.print(f"written to {names}", soft_wrap=True)
    console.print(
        f"to train them from scratch:  anywidth train --from-search {out} --budget {result.found[0].budget}",
        soft_wrap=True, markup=False,
    )  # fmt: skip
    return 0


def _data(settings: SearchCommandSettings, opened: OpenRun, console: Console) -> SearchData:
    """Calibration and held-out images of a run. A run without held-out images holds out a tenth now."""
    from dataclasses import replace

    from anywidth.cli.messages import log
    from anywidth.runs.data import build_held_out, build_loaders
    from anywidth.runs.options import with_options
    from anywidth.search import SearchData

    run = opened.settings
    if not run.data.hold_out:
        log(
            "warning",
            "the run held out no images, so a tenth of its training images is used for scores, which are too high; "
            "for a better search, train with --hold-out 0.1",
        )
        run = with_options(run, {"hold_out": 0.1})
    if settings.data_root is not None:
        run = with_options(run, {"data_root": settings.data_root})
    bundle, held_out = build_held_out(run)
    opened.data.check(bundle, taken=0 if opened.settings.data.hold_out else len(held_out))  # type: ignore[arg-type]
    loaders = build_loaders(run, replace(bundle, test=held_out))
    data = SearchData.of(
        loaders.calibration, loaders.test, images=settings.calibration_images, limit=settings.held_out_images
    )
    count = sum(targets.shape[0] for _, targets in data.held_out)
    calibration = data.calibration[0].tensors()[0].shape[0]
    console.print(
        f"{opened.data.name}: networks are scored on {count:,} held-out images; batch-norm statistics come from "
        f"{calibration:,} training images", soft_wrap=True,
    )  # fmt: skip
    return data


def _latency_model(settings: SearchCommandSettings, opened: OpenRun, console: Console) -> LatencyModel:
    """Latency model of this machine: read from its file, or measured now."""
    from rich.progress import Progress

    from anywidth.core.modules import model_device
    from anywidth.runs.costs import latency_model

    file = settings.latency_model or settings.run / f"{settings.cost}.json"
    device = str(model_device(opened.net.model))
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("measuring subnets")
        model = latency_model(
            opened.net, settings.cost, file, device=device,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    console.print(
        f"latency model from {model.measured} measured subnets, {file}: median error {model.error:.1%} on "
        f"{model.held_out} held-out subnets, maximum {model.worst:.1%}", soft_wrap=True,
    )  # fmt: skip
    return model


def _uniform(scorer: Scorer, result: SearchResult) -> list[tuple[float, float]]:
    """Cost and held-out score of uniform widths, for comparison in the table."""
    from anywidth.search import uniform_costs

    costs = uniform_costs(scorer.net, scorer.cost_of, 40)
    found = []
    for item in result.found:
        width = min(costs, key=lambda width: abs(costs[width] - item.network.cost))
        uniform = scorer.evaluate(scorer.net.config(width))
        found.append((uniform.cost, uniform.score))
    return found
