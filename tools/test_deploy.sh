#!/usr/bin/env bash
# Run the tests of deploy/: images, Compose, Kubernetes and monitoring. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${VENV:-.venv}/bin
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
exec "$bin/python" -m pytest -m deploy "$@" tests/deploy
