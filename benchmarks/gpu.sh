#!/usr/bin/env bash
# All measurements that need a GPU, in order of worth: `bash benchmarks/gpu.sh --help`. Run the same command again to
# continue after an interruption. Needs no installation: packages come from the Python in $PYTHON, or from $PYTHONPATH.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-}
if [ -z "$python" ]; then
    python=$root/.venv/bin/python
    "$python" -c "import torch" 2>/dev/null || python=python3
fi
PYTHONPATH=$root/src${PYTHONPATH:+:$PYTHONPATH} exec "$python" "$root/benchmarks/gpu_queue.py" "$@"
