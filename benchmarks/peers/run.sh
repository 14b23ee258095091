#!/usr/bin/env bash
# Runs the comparison in an environment of its own, with the peers' packages: `bash benchmarks/peers/run.sh --help`.
# uv keeps the environment in its cache; uv.lock and the project's .venv stay as they are.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 CUDA_VISIBLE_DEVICES=
export PYTHONPATH=$root/benchmarks${PYTHONPATH:+:$PYTHONPATH}
exec uv run --isolated --no-project --with-editable "$root" --with-requirements "$root/benchmarks/peers/requirements.txt" \
    python -W "ignore::FutureWarning" -m peers "$@"
