"""The message: identity, seeds, defaults and limits."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from jobs.errors import InvalidJob, NewerMessage
from jobs.job import (
    ALWAYS_IN_ID,
    BATCH_NAME,
    EMPTY_PROMPT,
    MESSAGE_VERSION,
    SEED_MAX,
    RenderJob,
    RenderParameters,
    RenderResult,
    job_id,
)


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
        (job().model_dump_json().replace('"version":1', '"version":"2"'), "version"),
        (job().model_dump_json().replace('"version":1', f'"version":{10**4000}'), "version"),
        (job().model_dump_json().replace('"row":1', '"row":0'), "row"),
        (job().model_dump_json()[:-1] + ',"extra":1}', "extra"),
    ],
)
def test_a_bad_message_is_refused_with_a_sentence_that_names_the_field(text: str, says: str) -> None:
    with pytest.raises(InvalidJob, match=says):
        RenderJob.from_json(text)


@pytest.mark.parametrize("extra", [{}, {"priority": 3}, {"parameters": "of another kind"}])
def test_a_message_of_a_newer_version_is_told_from_one_that_is_not_valid(extra: dict[str, object]) -> None:
    text = json.dumps(json.loads(job().model_dump_json()) | {"version": MESSAGE_VERSION + 1} | extra)
    with pytest.raises(NewerMessage, match=f"version {MESSAGE_VERSION + 1}") as caught:
        RenderJob.from_json(text)
    assert not isinstance(caught.value, InvalidJob)
    assert caught.value.fault == "worker"


def test_ids_are_those_of_the_first_version() -> None:
    """Recorded. If this fails, batches that were submitted before cannot be resumed."""
    assert job().id == "cce1cf687e802810f1ff"
    assert job(row=7, batch="spring", prompt="línea", seed=0, scale=9, guess_mode=True).id == "3860f41ed0004b7c2a7c"


class LaterParameters(RenderParameters):
    """As a later version may have them."""

    model: str = "default"
    tags: tuple[str, ...] = ()


def test_a_parameter_that_is_added_later_changes_the_ids_of_rows_that_use_it_alone() -> None:
    def later(**parameters: object) -> str:
        values = {"image": "file:///a.png", "prompt": "a house"} | parameters
        return job_id(LaterParameters.model_validate(values), batch="b", row=1)

    assert later() == later(model="default", tags=()) == job().id
    assert len({job().id, later(model="anime"), later(tags=("a",)), later(model="anime", tags=("a",))}) == 4


@pytest.mark.parametrize(
    "later",
    [
        {"model": "anime"},
        {"control": "none"},
        {"control_image": "file:///hint.png"},
        {"format": "webp"},
        {"format": "jpeg", "quality": 90},
        {"long_prompts": "chunk"},
        {"prompt_syntax": "weighted"},
    ],
)
def test_a_job_with_a_later_parameter_is_another_job_of_a_newer_version(later: dict[str, object]) -> None:
    newer = job(**later)  # type: ignore[arg-type]
    assert (newer.version, job().version) == (3, 1)
    assert newer.id != job().id
    assert RenderJob.from_json(newer.model_dump_json()) == newer
    with pytest.raises(ValidationError, match="need version 3"):
        RenderJob.model_validate_json(newer.model_dump_json().replace('"version":3', '"version":1'))


def test_a_job_without_later_parameters_is_written_as_before() -> None:
    written = json.loads(job().model_dump_json())
    assert set(written["parameters"]) == ALWAYS_IN_ID
    assert job(row=7).id == "64521ab35fb6f2d8f2bb"  # as earlier versions gave it
    assert job(model=None, format="png", quality=None, control="canny").id == job().id


def test_a_png_takes_no_quality() -> None:
    with pytest.raises(ValidationError, match="quality goes with format jpeg or webp"):
        job(quality=90)


def test_every_parameter_of_the_first_version_is_part_of_the_id() -> None:
    assert set(RenderParameters.model_fields) >= ALWAYS_IN_ID
    assert len(ALWAYS_IN_ID) == 14


def test_a_result_of_a_newer_version_is_read_without_what_it_added() -> None:
    text = (
        '{"id":"a","batch":"b","row":1,"state":"done","image":"i","prompt":"p","seed":1,"attempts":2,"model":"anime"}'
    )
    assert RenderResult.model_validate_json(text).attempts == 2


@pytest.mark.parametrize("name", ["spring", "9", "a.b_c-d", "a" * 100])
def test_batch_names_that_a_job_takes(name: str) -> None:
    assert BATCH_NAME.fullmatch(name)
    assert job(batch=name).batch == name


@pytest.mark.parametrize("name", ["", "-a", ".", "a/b", "a b", "a\n", "é", "a" * 101])
def test_batch_names_that_a_job_refuses(name: str) -> None:
    assert not BATCH_NAME.fullmatch(name)
    with pytest.raises(ValidationError):
        job(batch=name)


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


@pytest.mark.parametrize(
    "text",
    [
        job().model_dump_json().replace('"version":1', '"version":1,"password":"hunter2"'),
        job().model_dump_json().replace('"image":', '"token":"hunter2","image":'),
        '{"version":1,"password":"hunter2"',
        '["hunter2"]',
        '"hunter2"',
        '{"version":1,"parameters":"hunter2"}',
        '{"version":1,"parameters":["hunter2"]}',
        '{"version":1,"id":{"password":"hunter2"}}',
    ],
    ids=["key", "parameter", "cut short", "list", "text", "parameters as text", "parameters as list", "id as object"],
)
def test_a_value_that_is_not_a_known_fields_is_not_shown_since_it_may_be_a_secret(text: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        RenderJob.from_json(text)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("format_", "ending"), [("png", ".png"), ("jpeg", ".jpg"), ("webp", ".webp")])
def test_samples_end_as_their_format_does_and_the_hint_is_a_png(format_: str, ending: str) -> None:
    one = job(format=format_)
    assert one.sample_uri(3) == f"{one.folder}/{one.id}_3{ending}"
    assert one.canny_uri == f"{one.folder}/{one.id}_canny.png"


def test_secrets_of_both_pictures_are_taken_out_and_nothing_else_is_changed() -> None:
    plain = job(control_image="s3://bucket/pose.png").parameters
    assert plain.without_secrets() is plain
    signed = job(image="https://h/a.png?sig=x1", control_image="https://u:x1@h/b.png", scale=3.0).parameters
    shown = signed.without_secrets()
    assert (shown.image, shown.control_image) == ("https://h/a.png?sig=…", "https://…@h/b.png")
    assert shown.model_copy(update={"image": signed.image, "control_image": signed.control_image}) == signed


def test_an_unknown_key_is_named() -> None:
    text = job().model_dump_json().replace('"version":1', '"version":1,"password":"hunter2"')
    with pytest.raises(InvalidJob, match="password: Extra inputs are not permitted"):
        RenderJob.from_json(text)


def test_an_empty_prompt_is_one_that_every_version_reads_and_a_result_shows_it_as_empty() -> None:
    one = job(prompt=EMPTY_PROMPT)
    assert RenderJob.from_json(one.model_dump_json()).parameters.prompt == EMPTY_PROMPT
    assert one.version == 1
    result = RenderResult(id="a", batch="b", row=1, state="done", image="i", prompt=EMPTY_PROMPT, seed=1)
    assert result.prompt == ""
    assert RenderResult.model_validate_json(result.model_dump_json()) == result


def test_an_engine_set_is_part_of_the_id_and_needs_a_newer_message() -> None:
    free = job()
    kept = RenderJob.create(free.parameters, batch=free.batch, row=free.row, output=free.output, engine_set="5ccee6ac")
    other = RenderJob.create(free.parameters, batch=free.batch, row=free.row, output=free.output, engine_set="5ccee6ad")
    assert len({free.id, kept.id, other.id}) == 3
    assert (free.version, kept.version) == (1, 2)
    assert "engine_set" not in free.model_dump_json()
    assert "engine_set" not in free.model_dump()
    assert RenderJob.from_json(kept.model_dump_json()) == kept
    for old, new in (('"version":2', '"version":1'), ('"5ccee6ac"', '"5ccee6a"'), ('"5ccee6ac"', '"5CCEE6AC"')):
        with pytest.raises(InvalidJob):
            RenderJob.from_json(kept.model_dump_json().replace(old, new))


def test_the_ids_of_jobs_that_are_kept_to_no_set_stay() -> None:
    assert job_id(job().parameters, batch="b", row=1) == job_id(job().parameters, batch="b", row=1, engine_set=None)
