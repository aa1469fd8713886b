"""benchmarks/soak: a real worker is fed and watched, and growth is told from wavering."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.line_chart import line_chart
from benchmarks.resident import Growth, Sample
from tools import ROOT


def samples(*, per_job: float, start: float = 300.0, jobs: int = 10_000) -> list[Sample]:
    """A worker that settles within 500 jobs, wavers by 5 MiB and grows by so many MiB a job."""
    settling = [100.0 * max(0.0, 1 - done / 500) for done in range(0, jobs, 50)]
    return [
        Sample(50 * number, float(number), 0.0, start - less + (5 if number % 2 else 0) + per_job * 50 * number)
        for number, less in enumerate(settling)
    ]


@pytest.mark.parametrize(("per_job", "flat"), [(0.65, False), (0.01, False), (0.0, True), (0.001, True)])
def test_growth_is_told_from_wavering(per_job: float, flat: bool) -> None:
    growth = Growth.after(samples(per_job=per_job), 1000)
    assert growth is not None
    assert growth.is_flat is flat
    assert growth.mib == pytest.approx(per_job * growth.jobs, abs=5)


def test_of_a_large_process_two_percent_are_allowed() -> None:
    growths = [Growth.after(samples(per_job=0.005, start=start), 1000) for start in (300.0, 4000.0)]
    assert [growth.is_flat for growth in growths if growth] == [False, True]


def test_a_short_run_says_nothing() -> None:
    assert Growth.after(samples(per_job=1.0, jobs=1400), 1000) is None


def test_a_chart_has_its_series_and_round_ticks() -> None:
    chart = line_chart({"a <b>": [(0, 0), (900, 350)]}, title="T", x_label="x", y_label="y")
    assert chart.startswith("<svg ")
    for text in ("a &lt;b&gt;", ">1,000<", ">400<", "polyline"):
        assert text in chart


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_a_worker_is_fed_and_watched(tmp_path: Path) -> None:
    plot = tmp_path / "soak.svg"
    options = ["--engines", "fake:", "--jobs", "120", "--side", "64", "--settle", "0", "--plot", str(plot)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", *options],
        cwd=ROOT, env=os.environ | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr  # 1: not flat, which no test of 120 jobs can say
    figures = json.loads(done.stdout)
    assert (figures["bench"], figures["jobs"], figures["side"]) == ("soak", 120, 64)
    assert figures["samples"][0][0] == 0
    assert figures["peak_above_idle_mib"] > 0
    assert plot.read_text().endswith("</svg>\n")
    assert [path.name for path in tmp_path.iterdir()] == ["soak.svg"]
