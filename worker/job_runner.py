"""JobRunner: one job from its message to its record, in a thread of GpuPool's.

    decide     the ledger says whether this process renders the job
    render     fetch, prepare, submit to the loop, encode, upload; the sidecar last
    record     the ledger gets the result, or the job is queued again, now or later

What can happen to a job, and what becomes of its message:

    rendered, failed for good, cancelled, quarantined    the ledger gets the result; acknowledged
    finished before, or in flight in another worker      acknowledged
    the worker stops                                     queued in the ledger, then requeued
    the fault is this worker's, a host's or storage's    queued in the ledger for later, which sends a new message;
                                                         acknowledged
    a message of a newer version                         requeued, for a newer worker
    a message that holds no job                          logged; acknowledged
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import structlog

from jobs.errors import (
    Cancelled,
    EngineSetNotHeld,
    InvalidJob,
    NewerMessage,
    PermanentError,
    Quarantined,
    RenderError,
    Requeued,
    TransientError,
)
from jobs.job import RenderJob, RenderResult
from jobs.ledger.records import Start
from jobs.settings import Settings
from jobs.storage.access_policy import AccessPolicy
from jobs.storage.http import FetchLimits
from jobs.storage.store import Store, read_bytes, store_for
from worker.fitness import Fitness
from worker.in_flight import InFlightJobs
from worker.ledger_client import LedgerClient
from worker.observe.metrics import JobMetrics, StageTimer
from worker.outcome import Outcome
from worker.prepared import Drawing
from worker.refusals import Refusals
from worker.renderer import Renderer
from worker.result import ResultWriter, sidecar
from worker.shutdown import Shutdown
from worker.sources import Sources
from worker.uploads import Uploads
