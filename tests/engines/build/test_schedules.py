"""The noise schedule in a set: written by a build, held by verify, used by score, and absent in sets of before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engines.build.builder import build_set
from engines.check.score import ScoreRequest, score
from engines.check.verify import verify
from engines.engine_set import load_engine_set
from engines.errors import EngineSetRefused, ModelRefused
from engines.manifest import load_manifest
from engines.noise_schedule import SD15, NoiseSchedule
from jobs.errors import StepsNotTrained
from jobs.job import RenderJob, RenderParameters
from jobs.settings import load_settings
from tests.engines.sets import copy_of_model, edit_manifest, request_for
from worker.renderer import load_renderer

V = NoiseSchedule(prediction_type="v_prediction")


def model_with(folder: Path, **scheduler: Any) -> Path:
    weights = copy_of_model(folder)
    path = weights / "model" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | scheduler))
    return weights


def built(folder: Path, **scheduler: Any) -> tuple[Path, Path]:
    """The model and a set of it."""
    weights = model_with(folder, **scheduler)
    build_set(request_for(weights, folder / "set", shape="64x64"))
    return weights, folder / "set"


def without_schedule(folder: Path) -> Path:
    """The set, as a version before schedules wrote it."""
    edit_manifest(folder, lambda manifest: manifest.pop("schedule"))
    return folder


def test_the_schedule_is_in_the_manifest_and_in_the_sets_name(tmp_path: Path) -> None:
    _, out = built(tmp_path, prediction_type="v_prediction")
    manifest = load_manifest(out)
    assert manifest.schedule == V
    assert manifest.digest != manifest.model_copy(update={"schedule": SD15}).digest
    with load_engine_set(out) as engines:
        assert engines.noise_schedule == V


def test_a_set_of_before_keeps_its_name_and_is_sd15s(tmp_path: Path) -> None:
    weights, out = built(tmp_path)
    named = load_manifest(out).digest
    without_schedule(out)
    assert load_manifest(out).digest == named
    with load_engine_set(out) as engines:
        assert engines.noise_schedule == SD15
    again = build_set(request_for(weights, out, shape="64x64"))
    assert (again.steps, again.changed, again.manifest.digest) == (0, True, named)
    assert load_manifest(out).schedule == SD15
    assert not build_set(request_for(weights, out, shape="64x64")).changed


def test_a_set_of_before_is_checked_by_the_next_build(tmp_path: Path) -> None:
    """Earlier versions built models that are refused now, and wrote no schedule."""
    weights, out = built(tmp_path)
    without_schedule(out)
    path = weights / "model" / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"something_new": 1}))
    edit_manifest(out, lambda manifest: manifest["source"].update(weights=weights_digest(weights)))
    with pytest.raises(ModelRefused, match="something_new"):
        build_set(request_for(weights, out, shape="64x64"))


def weights_digest(weights: Path) -> str:
    from engines.model.locate import find_weights

    return find_weights(str(weights / "model"), str(weights / "controlnet")).digest


def test_verify_refuses_a_set_that_is_rendered_otherwise_than_its_model_says(tmp_path: Path) -> None:
    _, out = built(tmp_path, prediction_type="v_prediction")
    without_schedule(out)
    with pytest.raises(EngineSetRefused, match="another noise schedule than its model's, which has prediction_type v_"):
        list(verify(out))


def test_score_renders_with_each_sets_schedule(tmp_path: Path) -> None:
    _, out = built(tmp_path, prediction_type="v_prediction")
    request = ScoreRequest(height=64, width=64, samples=1, steps=3)
    other = tmp_path / "other"
    build_set(request_for(tmp_path / "weights", other, shape="64x64"))
    without_schedule(other)
    (apart,) = score(out, other, request)
    assert apart.psnr_db < 40
    with pytest.raises(EngineSetRefused, match="1001 steps cannot be rendered"):
        score(out, out, ScoreRequest(height=64, width=64, samples=1, steps=1001))


def test_half_precision_takes_as_many_timesteps_as_it_can_tell_apart(tmp_path: Path) -> None:
    weights = model_with(tmp_path, num_train_timesteps=4000)
    with pytest.raises(ModelRefused, match=r"4000 training timesteps, and fp16 engines take at most 2048; .*fp32"):
        build_set(request_for(weights, tmp_path / "half", shape="64x64", precision="fp16"))
    build_set(request_for(weights, tmp_path / "single", shape="64x64"))
    assert load_manifest(tmp_path / "single").schedule == NoiseSchedule(num_train_timesteps=4000)


@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [
        ({"trained_betas": [0.1, 0.2]}, "there are 2 trained betas and 1000 training timesteps"),
        ({"steps_offset": 5000}, "there are 1000 training timesteps"),
        ({"prediction_type": "epsilon", "rescale_betas_zero_snr": True}, "divide by zero"),
        ({"prediction_type": "noise"}, "prediction_type"),
        ({"clip_sample": True}, "clip_sample"),
    ],
)
def test_a_manifest_with_a_schedule_that_is_none_is_refused(
    tmp_path: Path, schedule: dict[str, Any], sentence: str
) -> None:
    _, out = built(tmp_path)
    edit_manifest(out, lambda manifest: manifest["schedule"].update(schedule))
    with pytest.raises(EngineSetRefused, match=f"not valid at schedule.*{sentence}"):
        load_manifest(out)


def test_a_job_with_more_steps_than_the_model_has_fails_with_a_sentence(tmp_path: Path) -> None:
    _, out = built(tmp_path, num_train_timesteps=100)
    renderer = load_renderer(load_settings(engine_dir=str(out), device="cpu", threads=1))
    parameters = RenderParameters(image="file:///a.png", prompt="a cat", ddim_steps=100)
    job = RenderJob.create(parameters, batch="b", row=1, output="out")
    with pytest.raises(
        StepsNotTrained, match="the engine set's model has 100 training timesteps: ddim_steps must be 1 to 99, not 100"
    ):
        renderer.prepare(job, b"")
    renderer.close()
