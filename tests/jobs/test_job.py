"""The message: identity, seeds, defaults and limits."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from jobs.errors import InvalidJob
from jobs.job import SEED_MAX, RenderJob, RenderParameters


def job(row: int = 1, batch: str = "b", **parameters: object) -> RenderJob:
    values = {"image": "file:///a.png", "prompt": "a house"} | parameters
    return RenderJob.create(RenderParameters.model_validate(values), batch=batch, row=row, output="file:///out")


def test_the_same_row_of_the_same_batch_is_the_same_job() -> None:
    assert job() == job()


@pytest.mark.parametrize("other", [{"row": 2}, {"batch": "c"}, {"prompt": "a boat"}, {"scale": 9.5}, {"seed": 0}])
def test_another_row_batch_or_parameter_is_another_job(other: dict[str, object]) -> None:
    assert job(**other).id != job().id  # type: ignore[arg-type]


def test_two_identical_rows_are_two_jobs_with_two_seeds() -> None:
    assert job(row=1).id != job(row=2).id
    assert job(row=1).seed != job(row=2).seed


def test_a_drawn_seed_is_the_same_at_every_submission_and_in_range() -> None:
    assert job(seed=-1).seed == job(seed=-1).seed
    assert 0 <= job(seed=-1).seed <= SEED_MAX


def test_a_given_seed_is_kept_also_when_it_is_zero() -> None:
    assert job(seed=0).seed == 0


def test_a_job_survives_json() -> None:
    assert RenderJob.from_json(job(eta=0.5, guess_mode=True).model_dump_json()) == job(eta=0.5, guess_mode=True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nonsense", "not valid"),
        ("{}", "id"),
        (job().model_dump_json().replace('"version":1', '"version":0'), "version"),
        (job().model_dump_json().replace('"row":1', '"row":0'), "row"),
        (job().model_dump_json()[:-1] + ',"extra":1}', "extra"),
    ],
)
def test_a_bad_message_is_refused_with_a_sentence_that_names_the_field(text: str, says: str) -> None:
    with pytest.raises(InvalidJob, match=says):
        RenderJob.from_json(text)


def test_zero_is_a_value_for_every_number_that_may_be_zero() -> None:
    parameters = job(strength=0, scale=0, eta=0, seed=0, low_threshold=0, high_threshold=0).parameters
    assert (parameters.strength, parameters.scale, parameters.low_threshold, parameters.high_threshold) == (0, 0, 0, 0)


def test_defaults_are_those_of_canny2image() -> None:
    parameters = job().parameters
    assert parameters.a_prompt == "best quality, extremely detailed"
    assert parameters.n_prompt == "longbody, lowres, bad anatomy, bad hands, missing fingers"
    assert (parameters.num_samples, parameters.image_resolution, parameters.ddim_steps) == (1, 512, 20)
    assert (parameters.guess_mode, parameters.strength, parameters.scale, parameters.eta) == (False, 1.0, 9.0, 0.0)
    assert (parameters.seed, parameters.low_threshold, parameters.high_threshold) == (-1, 100, 200)


@pytest.mark.parametrize(
    "bad",
    [
        {"image": ""},
        {"prompt": ""},
        {"num_samples": 0},
        {"image_resolution": 100},
        {"ddim_steps": 0},
        {"ddim_steps": 1000},
        {"strength": -0.1},
        {"scale": float("nan")},
        {"seed": -2},
        {"eta": 1.1},
        {"low_threshold": 201},
        {"unknown": 1},
    ],
)
def test_values_out_of_range_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        job(**bad)  # type: ignore[arg-type]


def test_files_lie_under_output_and_batch() -> None:
    assert job().sidecar_uri == f"file:///out/b/{job().id}.json"
    assert job().sample_uri(1) == f"file:///out/b/{job().id}_1.png"
    assert job().canny_uri == f"file:///out/b/{job().id}_canny.png"
