#!/usr/bin/env bash
# Run every test that needs neither a GPU nor containers: what `make test` and CI run. Arguments go to pytest; a -m among them replaces ours.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${VENV:-.venv}/bin
# Two processes with one thread each: the tests also start real workers, and more threads than cores slow everything down.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
exec "$bin/python" -m pytest -m "not gpu and not deploy" -n 2 --dist worksteal "$@"
