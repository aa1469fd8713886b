"""The warm-up of `benchmarks.many_models`: a job of each set, or enough of them that a GPU captures full batches."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

from benchmarks.many_models import NAMES, Plan, main, mixed_jobs, warm_up, with_model
from jobs.job import RenderJob

PLAN = Plan(jobs=60, steps=4, size=64, max_batch=2, threads=1, resident=2, device="auto", names=NAMES, warm_up_jobs=12)
PICTURES = [Path(f"/pictures/{n}.png") for n in range(PLAN.jobs)]


def jobs(plan: Plan) -> list[RenderJob]:
    return mixed_jobs(plan, PICTURES[: plan.jobs], batch="all", output=Path("/out"))


def test_each_set_warms_up_with_samples_that_end_one_by_one_and_prompts_that_are_not_measured() -> None:
    measured = jobs(PLAN)
    warm = warm_up(PLAN, measured, "all")
    assert Counter(job.parameters.model for job in warm) == dict.fromkeys(NAMES, 12)
    for name in NAMES:
        own = [job.parameters.ddim_steps for job in warm if job.parameters.model == name]
        assert own == list(range(4, 16))
    assert not {job.parameters.prompt for job in warm} & {job.parameters.prompt for job in measured}
    assert {job.batch for job in warm} == {"all-warm-up"}
    assert len({job.id for job in warm}) == len(warm)


def test_on_a_cpu_one_job_of_each_set_is_enough() -> None:
    plan = replace(PLAN, warm_up_jobs=1)
    assert Counter(job.parameters.model for job in warm_up(plan, jobs(plan), "all")) == dict.fromkeys(NAMES, 1)
    alone = [with_model(job, None) for job in jobs(plan)]
    assert len(warm_up(plan, alone, "one")) == 1


def test_there_are_no_more_warm_up_jobs_of_a_set_than_measured_ones() -> None:
    plan = replace(PLAN, jobs=9)
    assert Counter(job.parameters.model for job in warm_up(plan, jobs(plan), "all")) == dict.fromkeys(NAMES, 3)


def test_the_longest_warm_up_job_is_valid_with_the_most_steps_that_may_be_asked_for() -> None:
    most = get_type_hints(main, include_extras=True)["steps"].__metadata__[0].max
    plan = replace(PLAN, steps=most)
    warm = warm_up(plan, jobs(plan), "all")
    assert [RenderJob.from_json(job.model_dump_json()) for job in warm] == warm
