"""`anywidth search`: the best channel numbers for budgets, from the supernet of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from anywidth.core.errors import SettingsError
from anywidth.runs.options import option
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
        help="folder that anywidth train wrote, best with --random nonuniform --hold-out 0.1",
    )
    budgets: tuple[str, ...] = option(
        parse=parse_budget_list,
        metavar="B,B,...",
        help="what networks may cost: 30e6,20M or 20ms, a share of the widest such as 50%, or an interval such as "
        "90M-100M",
    )
    method: str = option("greedy", metavar="NAME", help="greedy (AutoSlim's), or evolution or random, to compare with")
    evaluations: int = option(200, help="networks that evolution and random search score")
    seed: int = option(0, help="seed of evolution and random search")
    cost: Literal["macs", "params", "memory", "latency", "latency-compiled", "latency-onnx"] = option(
        "macs",
        metavar="NAME",
        help="what budgets are of: macs, params, memory (bytes of activations), latency, latency-compiled or "
        "latency-onnx (milliseconds)",
    )
    latency_model: Path | None = option(
        None,
        metavar="FILE",
        help="file of a latency model; made by measuring subnets if it is not there; by default RUN/COST.json",
    )
    objective: Literal["accuracy", "per-cost"] = option(
        "accuracy",
        metavar="NAME",
        help="what a removal is chosen by: accuracy, or per-cost, the accuracy lost per cost saved",
    )
    piece: float = option(0.1, help="share of a group's channels that is removed at once")
    calibration_images: int = option(2048, help="training images for the batch-norm statistics of a candidate")
    held_out_images: int = option(5000, help="held-out training images to score a candidate on, at most")
    memory: float = option(2e9, help="bytes of activations that candidates share")
    out: Path | None = option(
        None,
        metavar="FILE",
        help="file to write, .json; a log of the steps (.csv) and a picture (.png) go beside it; by default "
        "RUN/search-COST.json, or RUN/search-COST-METHOD.json if the method is not greedy",
    )
    device: Device = option("auto", help="auto, cpu or cuda")
    data_root: Path | None = option(None, help="folder of downloaded data sets, if it has moved since training")

    def __post_init__(self) -> None:
        for name, low in (("calibration_images", 2), ("held_out_images", 1), ("evaluations", 1)):
            if getattr(self, name) < low:
                raise SettingsError(f"--{name.replace('_', '-')} is {getattr(self, name)}; give at least {low}")
        if self.out is not None and self.out.suffix != ".json":
            raise SettingsError(f"--out {self.out}: give a name that ends in .json")


def run(settings: SearchCommandSettings) -> int:
    """Search for the channel numbers of the most accurate network for every budget."""
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
    asked = SearchSettings(objective=settings.objective, piece=settings.piece, memory=settings.memory)
    by = "" if settings.method == "greedy" else f"-{settings.method}"
    out = settings.out or settings.run / f"search-{settings.cost}{by}.json"
    if out.exists():
        raise SettingsError(f"{out} holds the result of a search; choose another file with --out, or remove it")
    opened = open_run(settings.run, device=settings.device, data_root=settings.data_root)
    data = _data(settings, opened, console)
    state = out.with_suffix(".state.json")
    with fitting_threads(opened.net, settings.calibration_images):
        model = _latency_model(settings, opened, console) if settings.cost.startswith("latency") else None
        scorer = Scorer(opened.net, data, cost_by_name(settings.cost, model), settings=asked, state=state)
        if scorer.state.scores:
            console.print(f"going on with {len(scorer.state.scores)} networks of {state}", soft_wrap=True)
        try:
            with SearchProgress(console, scorer.cost) as progress:
                result = search(
                    scorer, settings.budgets, settings.method, evaluations=settings.evaluations, seed=settings.seed,
                    progress=progress,
                )  # fmt: skip
        except KeyboardInterrupt:
            known = len(scorer.state.scores)
            log("interrupted", f"{known} evaluated networks are kept in {state}; the same command goes on")
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
        log("warning", f"no picture was drawn: {error}")
    result.to_json(out)
    state.unlink(missing_ok=True)
    console.print(search_table(result, _uniform(scorer, result)))
    console.print(f"written to {names}", soft_wrap=True)
    console.print(
        f"train them from scratch with: anywidth train --from-search {out} --budget {result.found[0].budget}",
        soft_wrap=True, markup=False,
    )  # fmt: skip
    return 0


def _data(settings: SearchCommandSettings, opened: OpenRun, console: Console) -> SearchData:
    """Calibration and held-out images of a run: those that it did not train on, if it left any."""
    from dataclasses import replace

    from anywidth.cli.messages import log
    from anywidth.runs.data import build_held_out, build_loaders
    from anywidth.runs.options import with_options
    from anywidth.search import SearchData

    run = opened.settings
    if not run.data.hold_out:
        log(
            "warning",
            "the run trained on all its training images: a tenth of those is held out, on which accuracy is too "
            "high; train with --hold-out 0.1 for a better search",
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
        f"{opened.data.name}: networks are scored on {count:,} held-out training images, with batch-norm statistics of "
        f"{calibration:,} others", soft_wrap=True,
    )  # fmt: skip
    return data


def _latency_model(settings: SearchCommandSettings, opened: OpenRun, console: Console) -> LatencyModel:
    """A model of this machine's latencies, measured now or before."""
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
        f"latency by a model of {model.measured} measured subnets, {file}: median error {model.error:.1%} on "
        f"{model.held_out} others, at most {model.worst:.1%}", soft_wrap=True,
    )  # fmt: skip
    return model


def _uniform(scorer: Scorer, result: SearchResult) -> list[tuple[float, float]]:
    """Cost and held-out accuracy of uniform widths, which the table compares with."""
    from anywidth.search import uniform_costs

    costs = uniform_costs(scorer.net, scorer.cost_of, 40)
    found = []
    for item in result.found:
        width = min(costs, key=lambda width: abs(costs[width] - item.network.cost))
        uniform = scorer.evaluate(scorer.net.config(width))
        found.append((uniform.cost, uniform.accuracy))
    return found
