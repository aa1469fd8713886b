"""Worker processes for tests: started afresh as in tools/worker_process.py, or forked from a template."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.forked import ForkedProcess, Kind, Template
from tools import ROOT
from tools.worker_process import WorkerProcess, log_events

__all__ = ["ROOT", "ForkedTorchWorker", "ForkedWorker", "WorkerProcess", "log_events"]


class ForkedWorker(WorkerProcess):
    """A worker with stub engines that starts in a quarter of the time; see tests/worker_template.py."""

    kind: Kind = "programs"

    def _start(self, arguments: Sequence[str], environment: Mapping[str, str], *, own_session: bool) -> ForkedProcess:
        assert not own_session, "a forked worker is in the session of the tests"
        with self.log.open("ab") as log, Path(os.devnull).open("rb") as nothing:
            streams = (nothing.fileno(), log.fileno(), log.fileno())
            return Template.running(self.kind).fork("celery", arguments, environment, folder=ROOT, streams=streams)


class ForkedTorchWorker(ForkedWorker):
    """A worker whose engines need torch, if only to be fakes."""

    kind: Kind = "torch"
