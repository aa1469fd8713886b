#!/usr/bin/env bash
# Run every test that needs neither a GPU nor containers: what `make test` and CI run. Arguments go to pytest; a -m among them replaces ours.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${VENV:-.venv}/bin
# pytest keeps the tests as it has rewritten them, and Python our modules: together half of what each process does first.
unset PYTHONDONTWRITEBYTECODE
# Three processes with one thread each: many tests wait for real workers, so two would leave a core idle now and then.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
exec "$bin/python" -m pytest -m "not gpu and not deploy" -n 3 --dist worksteal "$@"
