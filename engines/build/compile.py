"""Compilations in parallel, each in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context

import torch

from engines.backends.recipe import CompileJob
from engines.errors import BuildFailed


def usual_processes() -> int:
    """Half as many as cores: torch's exporter uses one core, inductor's compiler two."""
    return max(1, (os.cpu_count() or 1) // 2)


def compile_all(jobs: Sequence[CompileJob], processes: int) -> Iterator[tuple[CompileJob, float]]:
    """Do all jobs, the longest first; yields each with its seconds when it is finished.

    Raises:
        BuildFailed: one could not be compiled, or its process was killed; finished ones are kept.
    """
    ordered = sorted(jobs, key=lambda job: (-job.effort, job.component))
    workers = max(1, min(processes, len(ordered)))
    # Spawned, not forked: a CUDA context does not survive a fork.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(workers,)) as pool:
        futures = {pool.submit(_compile, job): job for job in ordered}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise BuildFailed(
                "a compiling process died, most likely for want of memory; build again with fewer --jobs (what is "
                "finished is kept)"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(workers: int) -> None:
    """Share the cores between the processes, and keep inductor from starting a pool of its own in each."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    torch.set_num_threads(threads)
    torch._inductor.config.compile_threads = threads


def _compile(job: CompileJob) -> float:
    return job.compile()
