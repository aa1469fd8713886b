"""The memory of a process over time, from Linux's /proc, and whether it stays flat."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

MIB = 2**20
KEPT = 60  # samples in a JSON line
# Flat: the median of the last fifth of the samples exceeds that of the first fifth by no more than this.
FLAT_MIB, FLAT_SHARE = 16.0, 0.02


@dataclass(frozen=True)
class Sample:
    """How many jobs were done, after how many seconds, and the process's memory then, in MiB."""

    done: int
    seconds: float
    resident: float  # all that is in memory, code and files included
    anonymous: float  # the part that the process has allocated


@dataclass
class Memory:
    """Samples of one process."""

    pid: int
    began: float = field(default_factory=time.monotonic)
    samples: list[Sample] = field(default_factory=list)

    def sample(self, done: int) -> Sample:
        """Take one more."""
        seconds = round(time.monotonic() - self.began, 1)
        sample = Sample(done, seconds, self._mib("VmRSS"), self._mib("RssAnon"))
        self.samples.append(sample)
        return sample

    @property
    def peak(self) -> float:
        """The most that has been resident at any moment, in MiB."""
        return self._mib("VmHWM")

    @property
    def cpu_seconds(self) -> float:
        """CPU time so far, of all its threads together."""
        # After the name, which may hold anything, in brackets: utime and stime are the 12th and 13th field.
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _mib(self, name: str) -> float:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return round(int(line.split()[1]) * 1024 / MIB, 1)
        raise LookupError(f"/proc/{self.pid}/status does not say {name}")


@dataclass(frozen=True)
class Growth:
    """How the anonymous memory grew between two numbers of jobs."""

    from_mib: float  # the median of the first fifth of the samples
    to_mib: float  # of the last fifth
    jobs: int  # between the middles of both

    @classmethod
    def after(cls, samples: Sequence[Sample], settled: int) -> Growth | None:
        """From the first sample with so many jobs done; None where fewer than ten samples follow."""
        counted = [sample for sample in samples if sample.done >= settled]
        fifth = len(counted) // 5
        if fifth < 2:
            return None
        first, last = counted[:fifth], counted[-fifth:]
        return cls(
            statistics.median(sample.anonymous for sample in first),
            statistics.median(sample.anonymous for sample in last),
            round(statistics.median(one.done for one in last) - statistics.median(one.done for one in first)),
        )

    @property
    def mib(self) -> float:
        """The growth in MiB."""
        return self.to_mib - self.from_mib

    @property
    def is_flat(self) -> bool:
        """Within what a worker's memory wavers by: 16 MiB, or 2% of a large one."""
        return self.mib <= max(FLAT_MIB, FLAT_SHARE * self.from_mib)

    def figures(self) -> dict[str, object]:
        """The figures for a JSON line."""
        return {
            "flat": self.is_flat,
            "anonymous_mib": [round(self.from_mib, 1), round(self.to_mib, 1)],
            "grown_bytes_per_job": round(self.mib * MIB / max(1, self.jobs)),
        }


def thinned(samples: Sequence[Sample]) -> list[list[float]]:
    """At most KEPT samples, evenly spread, as [done, seconds, resident, anonymous]."""
    step = max(1, -(-len(samples) // KEPT))
    return [[one.done, one.seconds, one.resident, one.anonymous] for one in samples[::step]]
