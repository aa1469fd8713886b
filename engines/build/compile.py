"""Compilations in parallel: what backends that compile have in common."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

import torch

from engines.errors import BuildFailed


class CompileJob(Protocol):
    """One compilation, as it is sent to another process."""

    @property
    def component(self) -> str:
        """Of which component."""

    @property
    def stage(self) -> str:
        """The stage that it makes."""

    @property
    def path(self) -> Path:
        """The file that it writes, whole or not at all."""

    @property
    def effort(self) -> int:
        """How long it takes, roughly, beside others of its kind."""

    def compile(self) -> float:
        """Do it; the seconds it took. Raises BuildFailed."""


def usual_processes() -> int:
    """Two cores a process: torch's exporter uses one, inductor's compiler both."""
    return max(1, (os.cpu_count() or 1) // 2)


def compile_all(jobs: Sequence[CompileJob], processes: int) -> Iterator[tuple[CompileJob, float]]:
    """Do all, the longest first, in processes of their own; each job as it is finished, with its seconds.

    Raises:
        BuildFailed: one could not be compiled, or its process was killed; what is finished stays.
    """
    ordered = sorted(jobs, key=lambda job: (-job.effort, job.component))
    workers = max(1, min(processes, len(ordered)))
    # Spawned, not forked: a CUDA context does not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(workers,)) as pool:
        pending = {pool.submit(_compile, job): job for job in ordered}
        try:
            for future in as_completed(pending):
                yield pending[future], future.result()
        except BrokenProcessPool as error:
            raise BuildFailed(
                "a compiling process died, most likely for want of memory; build again with fewer --jobs (what is "
                "finished is kept)"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(workers: int) -> None:
    """Share the cores between the processes; inductor would start a pool of its own in each of them."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    torch.set_num_threads(threads)
    torch._inductor.config.compile_threads = threads


def _compile(job: CompileJob) -> float:
    return job.compile()
