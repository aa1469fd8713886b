#!/usr/bin/env bash
# Lint, format and types; what `make check` and CI run.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${VENV:-.venv}/bin
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
# Scripts that are in no package. Those of examples/demo-model and random-model are left to ruff.
"$bin/mypy" examples/photos.py deploy/docker/*.py
