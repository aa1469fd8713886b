#!/usr/bin/env bash
# Every test that needs no GPU; what `make test` and CI run. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${VENV:-.venv}/bin
# Two processes, and one thread in each: the tests start real workers beside themselves, and more threads than cores make
# all of them slower.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
exec "$bin/python" -m pytest -m "not gpu" -n 2 --dist worksteal "$@"
