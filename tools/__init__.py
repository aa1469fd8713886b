"""Programs for developers, run as `python -m tools.NAME`: the demo, an embedded Redis, chaos, fuzzing, figures, stress.

check.sh and test.sh are what `make check` and `make test` run; s3server (bash, because it only starts and stops other
programs) runs a real S3 server for the tests: `tools/s3server start [DIR] [PORT]`, `tools/s3server stop [DIR]`.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]  # of the tree
