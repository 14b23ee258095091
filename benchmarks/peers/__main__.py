"""Compare anywidth with other tools at the same processor time.

bash benchmarks/peers/run.sh --data npz:cifar100.npz            # all arms, three seeds; again to continue
bash benchmarks/peers/run.sh --data npz:cifar100.npz --quick    # 512 images and 40 seconds per arm
bash benchmarks/peers/run.sh table --write                      # fill in the table of README.md
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from anywidth.core.errors import AnywidthError
from anywidth.core.signals import sigterm_as_interrupt
from peers.compare import ARMS, compare, setup_of
from peers.table import read, table, write

PAGE = Path(__file__).parent / "README.md"
SECONDS, QUICK_SECONDS = 800.0, 40.0


def main(given: Sequence[str] | None = None) -> int:
    """Run the comparison or print its table; returns the exit status."""
    arguments = _arguments(given)
    try:
        if arguments.command == "table":
            text = table(read(arguments.out), {name: arm.title for name, arm in ARMS.items()})
            print(text)
            if arguments.write:
                write(PAGE, text)
            return 0
        if not arguments.data:
            raise SystemExit("give the dataset, --data npz:FILE")
        torch.set_num_threads(1)
        out = arguments.out / "quick" if arguments.quick else arguments.out
        with sigterm_as_interrupt():
            done = compare(
                setup_of(arguments.data, quick=arguments.quick), out, arms=arguments.arms, seeds=arguments.seeds,
                seconds=arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS),
                say=lambda line: print(line, flush=True),
            )  # fmt: skip
        return 0 if done else 1
    except (AnywidthError, ValueError) as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue with the unfinished arm", flush=True)
        return 130


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="run.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", nargs="?", choices=("run", "table"), default="run")
    parser.add_argument("--data", help="npz:FILE with x_train, y_train, x_test and y_test")
    parser.add_argument("--out", type=Path, default=Path("runs", "peers"), help="folder of the records")
    parser.add_argument("--arms", type=_arms, default=list(ARMS), help=f"some of {','.join(ARMS)}; by default all")
    parser.add_argument("--seeds", type=_seeds, default=[0, 1, 2], help="by default 0,1,2")
    parser.add_argument(
        "--seconds", type=float, help=f"processor time per arm and seed; by default {SECONDS:g}, or {QUICK_SECONDS:g}"
    )
    parser.add_argument("--quick", action="store_true", help="512 images, records in OUT/quick")
    parser.add_argument("--write", action="store_true", help="with table: also fill in README.md")
    return parser.parse_args(given)


def _arms(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in ARMS:
            raise argparse.ArgumentTypeError(f"unknown arm {name!r}; choose from {', '.join(ARMS)}")
    return names


def _seeds(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    raise SystemExit(main())
