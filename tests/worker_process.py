"""Worker processes for tests; see tools/worker_process.py."""

from __future__ import annotations

from tools.worker_process import ROOT, WorkerProcess, log_events

__all__ = ["ROOT", "WorkerProcess", "log_events"]
