"""All measurements that need a GPU, in order of worth, each limited in time, and continued by the next call.

    bash benchmarks/gpu.sh                                  # everything, on CIFAR-100, into runs/gpu
    bash benchmarks/gpu.sh --data npz:FILE_OR_FOLDER        # without a network connection
    bash benchmarks/gpu.sh --quick                          # everything in small on the CPU, into runs/gpu-quick

Every part writes PART.json and PART.log. Finished parts are skipped; parts that failed, were skipped or were cut off
run again. `anywidth reproduce` continues with its finished cells and the last stored state. The exit status is 0 if
all parts are done, 1 if one failed or was skipped, and 3 if one was cut off and the same command has to be run again.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpu_data import DataMissingError, options, random_archive
from gpu_parts import PACKAGES, Part, parts

from anywidth.core.files import write_atomically
from anywidth.core.signals import sigterm_as_interrupt

ROOT = Path(__file__).parents[1]
GRACE = 20.0  # seconds for a part to stop before it is killed
LEAST = 60.0  # seconds that must be left to start a part
DEVICE = """
import json, torch
gpu = torch.cuda.is_available()
print(json.dumps({"torch": torch.__version__, "device": torch.cuda.get_device_name() if gpu else "cpu"}))
"""


class Queue:
    """Runs parts and records them in a folder.

    Args:
        out: The folder.
        limit: Maximum seconds of a part.
        about: The device and the version of PyTorch, for the records.
        end: Time at which the queue has to stop, in seconds of `time.monotonic`.
        problem: Why the dataset cannot be used, if so.
    """

    def __init__(self, out: Path, *, limit: float, about: dict[str, str], end: float, problem: str = "") -> None:
        self.out, self.limit, self.about, self.end, self.problem = out, limit, about, end, problem

    def record(self, part: Part) -> dict[str, Any]:
        """The record of a part so far, or an empty one."""
        file = self.out / f"{part.name}.json"
        try:
            return json.loads(file.read_text())
        except (OSError, ValueError):
            return {}

    def run(self, part: Part) -> dict[str, Any]:
        """Run a part unless it is done, and return its record."""
        before = self.record(part)
        if before.get("status") == "done":
            return before
        row = {
            "part": part.name, "status": "cut off", "seconds": before.get("seconds", 0.0), "rc": None,
            "command": [*part.command], **self.about, "wanted": part.wanted or None,
        }  # fmt: skip
        lacking = [name for name in part.needs if importlib.util.find_spec(name) is None]
        reason = f"missing: {packages(lacking)}" if lacking else self.problem if part.data else ""
        if reason:
            return self._write(row | {"status": "skipped", "reason": reason})
        self._write(row)  # stays if this process is killed
        return self._write(row | self._finish(part, row))

    def _finish(self, part: Part, row: dict[str, Any]) -> dict[str, Any]:
        """Run the command and return the fields that the record lacks."""
        start = time.monotonic()
        log = self.out / f"{part.name}.log"
        rc, status, interrupted, limit = 0, "done", False, self.limit
        if not (part.experiment and self._complete(part)):
            limit = min(self.limit, self.end - start - GRACE)
            rc, status, interrupted = run_limited(part.command, log, limit=limit, enough=self._enough(part, log))
        text = log.read_text(errors="replace") if log.exists() else ""
        row = {"status": status, "rc": rc, "seconds": round(row["seconds"] + time.monotonic() - start, 1)}
        try:
            row["result"], row["met"] = part.read(text, self.out / part.folder)
        except Exception as error:
            row["result"], row["met"] = None, None
            row["reason"] = f"cannot read the result: {type(error).__name__}: {error}"
        if row["result"] is None and status == "done":
            row |= {"status": "failed"}
        if status == "cut off" and not part.experiment and not interrupted and limit == self.limit:
            row |= {"status": "failed", "reason": f"it takes more than {self.limit:g} seconds"}
        if row["status"] != "done":
            row["tail"] = text[-3000:]
        if interrupted:
            self.end = 0.0
        return row

    def _complete(self, part: Part) -> bool:
        """Whether an experiment has written its results, after which its command would be an error."""
        folder = self.out / part.folder
        return (folder / "result.json").is_file() and not (folder / "cells").exists()

    def _enough(self, part: Part, log: Path) -> Callable[[], bool]:
        """Whether an experiment has finished the seeds of this part, of more that its command would run."""
        cells = self.out / part.folder / "cells"
        if not part.experiment or f"--seeds {part.seeds} " in " ".join(part.command):
            return lambda: False

        def enough() -> bool:
            announced = re.search(r"(\d+) seeds: (\d+) cells", log.read_text(errors="replace"))
            if announced is None:
                return False
            each = int(announced[2]) // int(announced[1])
            return all(len([*cells.glob(f"*-{seed}.json")]) >= each for seed in range(part.seeds))

        return enough

    def _write(self, row: dict[str, Any]) -> dict[str, Any]:
        text = json.dumps(row, indent=1) + "\n"
        write_atomically(self.out / f"{row['part']}.json", lambda path: path.write_text(text))
        return row


def run_limited(
    command: Sequence[str], log: Path, *, limit: float, enough: Callable[[], bool]
) -> tuple[int | None, str, bool]:
    """Run a command with a time limit; returns its exit status, `done`, `failed` or `cut off`, and whether Ctrl-C came.

    Args:
        command: The command line.
        log: The file for its output.
        limit: Maximum seconds.
        enough: Whether it has done all that is wanted, so that it can be stopped.
    """
    status = "done"
    interrupted = False
    # In the process group of this process, so that whoever kills the group ends both.
    with log.open("w") as output, subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
    ) as process:  # fmt: skip
        end = time.monotonic() + limit
        try:
            while process.poll() is None:
                if enough():
                    _stop(process)
                    return 0, "done", False
                if time.monotonic() > end:
                    status = "cut off"
                    break
                time.sleep(0.1)
        except KeyboardInterrupt:
            status, interrupted = "cut off", True
        if status == "cut off":
            _stop(process)
    if status == "done" and process.returncode:
        status = "failed"
    return process.returncode, status, interrupted


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a process, and kill it if it does not stop."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def packages(modules: Sequence[str]) -> str:
    """The packages of modules, by the names that pip knows."""
    return ", ".join(PACKAGES.get(name, name) for name in modules)


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """A table of the parts."""
    width = max(len(row["part"]) for row in rows)
    lines = [f"{'part':{width}}  {'status':8}  {'seconds':>7}  wanted"]
    for row in rows:
        met = {True: "yes: ", False: "NO: ", None: ""}[row.get("met")] if row["status"] == "done" else ""
        note = row.get("reason") or met + (row.get("wanted") or "")
        lines.append(f"{row['part']:{width}}  {row['status']:8}  {row.get('seconds', 0):7.0f}  {note}".rstrip())
    return "\n".join(lines)


def pack(out: Path, archive: Path) -> None:
    """Write the small files of a folder, without checkpoints and datasets, to a .tar.gz archive."""

    def write(path: Path) -> None:
        with tarfile.open(path, "w:gz") as tar:
            for file in sorted(out.rglob("*")):
                if file.suffix in (".json", ".md", ".log", ".csv", ".png"):
                    tar.add(file, arcname=str(file.relative_to(out)))

    write_atomically(archive, write)


def device(*, quick: bool) -> dict[str, str]:
    """The version of PyTorch and the name of the GPU.

    Raises:
        SystemExit: PyTorch is missing, or there is no GPU and one is needed.
    """
    done = subprocess.run([sys.executable, "-c", DEVICE], capture_output=True, text=True, check=False)
    if done.returncode:
        problem = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise SystemExit(f"{sys.executable} cannot import torch ({problem}); set PYTHON to one that can")
    about = json.loads(done.stdout)
    if about["device"] == "cpu" and not quick:
        raise SystemExit(f"PyTorch {about['torch']} sees no GPU; try the queue on the CPU with --quick")
    return about


def prepare(arguments: argparse.Namespace) -> tuple[list[str], str]:
    """The dataset's options for `anywidth reproduce`, and why it cannot be used, if so."""
    try:
        data = arguments.data
        if arguments.quick and data is None:
            data = f"npz:{random_archive(arguments.out / 'random.npz')}"
        return options(data or "cifar100", root=arguments.data_root.absolute(), out=arguments.out), ""
    except (DataMissingError, ImportError) as error:
        return [], str(error)


def main(given: Sequence[str] | None = None) -> int:
    """Run the queue and print its table."""
    arguments = _arguments(given)
    end = time.monotonic() + (arguments.total or 1e9)
    arguments.out = (arguments.out or Path("runs", "gpu-quick" if arguments.quick else "gpu")).absolute()
    arguments.out.mkdir(parents=True, exist_ok=True)
    os.environ["PYTHONUNBUFFERED"] = "1"  # logs are complete when a part is cut off
    os.environ["BENCHMARK_RESULTS"] = str(arguments.out / "results")
    about = device(quick=arguments.quick)
    data, problem = prepare(arguments)
    seeds = 1 if arguments.quick else arguments.seeds
    every = parts(quick=arguments.quick, data=data, out=arguments.out, seeds=seeds)
    chosen = list({part.name: part for part in every if not arguments.only or part.name in arguments.only}.values())
    unknown = [name for name in arguments.only if name not in {part.name for part in every}]
    if unknown:
        raise SystemExit(f"unknown part {unknown[0]!r}; the parts are {', '.join(part.name for part in every)}")
    print(f"PyTorch {about['torch']}, {about['device']}; results in {arguments.out}", flush=True)
    lacking = sorted({name for part in chosen for name in part.needs if importlib.util.find_spec(name) is None})
    if lacking:
        print(f"missing packages: {packages(lacking)}; the parts that need them are skipped", flush=True)
    if problem:
        print(f"no dataset: {problem}", flush=True)
    queue = Queue(arguments.out, limit=arguments.limit, about=about, end=end, problem=problem)
    with sigterm_as_interrupt(once=True):  # `timeout` sends its signal twice; the second must not stop the records
        for part in chosen:
            if queue.record(part).get("status") != "done" and queue.end - time.monotonic() < LEAST:
                break
            row = queue.run(part)
            print(json.dumps(row), flush=True)
            if arguments.pack:
                pack(arguments.out, arguments.pack)
    rows = [queue.record(part) or {"part": part.name, "status": "waiting", "wanted": part.wanted} for part in chosen]
    print(summary(rows), flush=True)
    states = {row["status"] for row in rows}
    if states & {"cut off", "waiting"}:
        print("not all parts are finished; run the same command again", flush=True)
        return 3
    return 0 if states == {"done"} else 1


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gpu.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=os.environ.get("OUT") or None,
        help="folder to write; by default runs/gpu, or runs/gpu-quick with --quick",
    )  # fmt: skip
    parser.add_argument(
        "--data", default=os.environ.get("DATA") or None,
        help="npz:FILE, npz:FOLDER (arrays of all its .npz files are concatenated), or a dataset of anywidth train; by "
        "default cifar100, downloaded if necessary",
    )  # fmt: skip
    parser.add_argument("--data-root", type=Path, default=ROOT / "data", help="folder of downloaded datasets")
    parser.add_argument(
        "--quick", action="store_true", default=os.environ.get("QUICK", "") not in ("", "0"),
        help="run all parts on the CPU: small networks, one epoch of 100 random images",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=3, help="seeds of individual and nested, once all is finished")
    parser.add_argument("--limit", type=float, default=520, help="maximum seconds of a part")
    parser.add_argument("--total", type=float, help="maximum seconds of this call; by default unlimited")
    parser.add_argument(
        "--only", type=lambda text: text.split(","), default=[], metavar="PARTS", help="run only these, in their order"
    )
    parser.add_argument(
        "--pack", type=Path, metavar="FILE",
        help="after every part, write records, logs and results to this .tar.gz file, without checkpoints",
    )  # fmt: skip
    return parser.parse_args(given)


if __name__ == "__main__":
    raise SystemExit(main())
