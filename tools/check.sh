#!/usr/bin/env bash
# Lint, format and types; what `make check` and CI run.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${VENV:-.venv}/bin
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
# Scripts that are in no package. There are two photos.py, and mypy takes one module of a name.
"$bin/mypy" examples/photos.py deploy/docker/*.py
"$bin/mypy" examples/demo-model/*.py examples/random-model/make.py
