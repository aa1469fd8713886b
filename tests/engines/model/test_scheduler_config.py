"""What a scheduler_config.json, an original .yaml and a checkpoint's own values mean, beside diffusers' reading."""

from __future__ import annotations

import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from engines.errors import ModelRefused
from engines.model.fields import Used
from engines.model.libraries import library
from engines.model.locate import Weights, find_weights
from engines.model.rules.scheduler import OTHER_MATHEMATICS, SCHEDULER_RULES
from engines.model.scheduler_config import read_schedule
from engines.noise_schedule import SD15, NoiseSchedule
from tests.engines.original import CONFIG, save
from tests.models import tiny_model

# As the folders of published models have it.
STABLE_DIFFUSION = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
EULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "final_sigmas_type": "zero",
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "sigma_max": None,
    "sigma_min": None,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
    "timestep_type": "discrete",
    "trained_betas": None,
    "use_karras_sigmas": True,
}
DPM = {
    "_class_name": "DPMSolverMultistepScheduler",
    "algorithm_type": "dpmsolver++",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "lambda_min_clipped": float("-inf"),
    "lower_order_final": True,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "solver_order": 2,
    "solver_type": "midpoint",
    "steps_offset": 1,
    "thresholding": False,
    "timestep_spacing": "leading",
    "use_flow_sigmas": False,
    "variance_type": None,
}


def of_folder(folder: Path, config: Any) -> NoiseSchedule:
    path = folder / "scheduler" / "scheduler_config.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return read_schedule(Weights(folder, folder / "controlnet"))


def of_file(folder: Path, params: dict[str, Any] | None = None, tensors: dict[str, torch.Tensor] | None = None) -> Any:
    """The schedule of a single file that holds `tensors` besides its weights, with `params` in its .yaml."""
    model = save({"a": torch.zeros(1), **(tensors or {})}, folder / "model.safetensors")
    config = None
    if params is not None:
        kept = {name: value for name, value in CONFIG["model"]["params"].items() if not name.startswith("linear")}
        config = folder / "model.yaml"
        config.write_text(yaml.safe_dump({"model": {**CONFIG["model"], "params": kept | params}}))
    return read_schedule(Weights(model, model, folder, config))


def of_diffusers(config: dict[str, Any]) -> NoiseSchedule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = library("diffusers").DDIMScheduler.from_config(config, clip_sample=False)
    fields = {name: scheduler.config[name] for name in NoiseSchedule.model_fields}
    return NoiseSchedule(**fields)


@pytest.mark.parametrize(
    "config",
    [
        STABLE_DIFFUSION,
        EULER,
        DPM,
        {"_class_name": "DDPMScheduler", "variance_type": "fixed_small"},
        {"_class_name": "DDIMScheduler", "clip_sample": False},
        {"_class_name": "LCMScheduler", "original_inference_steps": 50, "timestep_scaling": 10.0},
        {"_class_name": "ASamplerToCome", "num_train_timesteps": 500, "beta_schedule": "squaredcos_cap_v2"},
        STABLE_DIFFUSION | {"prediction_type": "sample", "set_alpha_to_one": True},
        STABLE_DIFFUSION | {"beta_schedule": "linear", "steps_offset": 0},
        STABLE_DIFFUSION | {"trained_betas": [0.001, 0.002, 0.003], "num_train_timesteps": 3},
        STABLE_DIFFUSION | {"tensor_format": "pt", "timestep_values": None, "predict_epsilon": True},
        STABLE_DIFFUSION | {"timestep_spacing": "linspace", "_use_default_values": ["steps_offset"]},
    ],
)
def test_a_file_means_what_ddim_makes_of_it(config: dict[str, Any], tmp_path: Path) -> None:
    assert of_folder(tmp_path, config) == of_diffusers(config)


def test_the_published_configuration_is_that_of_sd15(tmp_path: Path) -> None:
    assert of_folder(tmp_path, STABLE_DIFFUSION) == SD15
    assert of_folder(tmp_path, DPM) == SD15


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"clip_sample": True}, "scheduler_config.json has clip_sample True"),
        ({"thresholding": True}, "has thresholding True"),
        (
            {"rescale_betas_zero_snr": True},
            "rescale_betas_zero_snr with epsilon would divide by zero",
        ),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "names FlowMatchEulerDiscreteScheduler: models that were"),
        ({"_class_name": "EDMEulerScheduler"}, "names EDMEulerScheduler"),
        ({"_class_name": ["DDIMScheduler"]}, "names .'DDIMScheduler'.: models"),
        ({"use_flow_sigmas": True}, "has use_flow_sigmas True .of flow matching"),
        ({"prediction_type": "flow_prediction"}, "has prediction_type 'flow_prediction'"),
        ({"timestep_type": "continuous"}, "has timestep_type 'continuous'"),
        ({"sigma_data": 0.5}, "has sigma_data 0.5 .of EDM"),
        ({"predict_epsilon": False}, "has predict_epsilon False"),
        ({"variance_type": "learned_range"}, "has variance_type 'learned_range'"),
        ({"beta_schedule": "sigmoid"}, "has beta_schedule 'sigmoid'"),
        ({"timestep_spacing": "karras"}, "has timestep_spacing 'karras'"),
        ({"noise_offset": 0.1}, "has the field 'noise_offset' .0.1., which this version does not know"),
        ({"beta_start": "0.1"}, "describes no noise schedule"),
        ({"beta_start": -0.1}, "describes no noise schedule"),
        ({"beta_start": float("nan")}, "describes no noise schedule"),
        ({"beta_start": 0, "beta_end": 0}, "has betas that do not make a noise schedule"),
        ({"beta_start": 0.9, "beta_end": 1.0}, "leaves nothing of the picture"),
        ({"num_train_timesteps": 0}, "describes no noise schedule"),
        ({"num_train_timesteps": 10**9}, "describes no noise schedule"),
        ({"num_train_timesteps": None}, "describes no noise schedule"),
        ({"steps_offset": -1}, "describes no noise schedule: steps_offset"),
        ({"steps_offset": 1000}, "there are 1000 training timesteps, and renders would end at 1000"),
        ({"set_alpha_to_one": "false"}, "describes no noise schedule: set_alpha_to_one"),
        ({"trained_betas": [0.1, 0.2]}, "there are 2 trained betas and 1000 training timesteps"),
        ({"trained_betas": "betas.npy"}, "describes no noise schedule"),
        ({"trained_betas": [-0.1] * 1000}, "describes no noise schedule"),
        ({"trained_betas": [0.1] * 999 + [1.0]}, "leaves nothing of the picture"),
    ],
)
def test_what_is_not_rendered_is_refused_by_name(config: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=sentence):
        of_folder(tmp_path, STABLE_DIFFUSION | config)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is not JSON"),
        ("[]", "it holds list, no fields by name"),
        ("[" * 100_000, "is not JSON"),
        ("\x00\x01", "is not JSON"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=f"scheduler_config.json .*{sentence}"):
        of_folder(tmp_path, text)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"scheduler_config.json is missing: it says how the model was trained"):
        read_schedule(Weights(tmp_path, tmp_path))


@pytest.mark.parametrize("class_name", ["DDIMScheduler", None])
def test_ddim_without_clip_sample_clips_and_is_refused(class_name: str | None, tmp_path: Path) -> None:
    config = {name: value for name, value in STABLE_DIFFUSION.items() if name not in ("clip_sample", "_class_name")}
    if class_name is not None:
        config["_class_name"] = class_name
    with pytest.raises(ModelRefused, match="has no clip_sample, and DDIMScheduler means true without it"):
        of_folder(tmp_path, config)


def test_every_field_of_every_sampler_of_this_family_is_tabled() -> None:
    diffusers = library("diffusers")
    names = {each.__name__ for each in diffusers.DDIMScheduler._get_compatibles()}
    names |= {"DDIMScheduler", "LCMScheduler", "TCDScheduler", "DDIMParallelScheduler", "SASolverScheduler"}
    fields = {
        field
        for name in names
        if not OTHER_MATHEMATICS.search(name)
        for field in inspect.signature(getattr(diffusers, name).__init__).parameters
    }
    assert fields - {"self", "args", "kwargs"} <= set(SCHEDULER_RULES)


def test_the_rules_name_every_field_of_ddim_and_what_is_used_is_in_a_schedule() -> None:
    signature = inspect.signature(library("diffusers").DDIMScheduler.__init__).parameters
    assert set(signature) - {"self"} <= set(SCHEDULER_RULES)
    used = {name for name, rule in SCHEDULER_RULES.items() if isinstance(rule, Used)}
    assert used <= set(NoiseSchedule.model_fields) <= set(SCHEDULER_RULES) & set(signature)


SD15_YAML = {"linear_start": 0.00085, "linear_end": 0.012, "timesteps": 1000}


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (SD15_YAML, SD15),
        ({}, NoiseSchedule(beta_start=1e-4, beta_end=2e-2)),  # the defaults of ldm's class
        (SD15_YAML | {"parameterization": "v"}, NoiseSchedule(prediction_type="v_prediction")),
        (SD15_YAML | {"parameterization": "x0"}, NoiseSchedule(prediction_type="sample")),
        (SD15_YAML | {"linear_end": 0.02}, NoiseSchedule(beta_end=0.02)),
        (SD15_YAML | {"beta_schedule": "sqrt_linear"}, NoiseSchedule(beta_schedule="linear")),
        (SD15_YAML | {"beta_schedule": "cosine"}, NoiseSchedule(beta_schedule="squaredcos_cap_v2")),
        (SD15_YAML | {"timesteps": 500}, NoiseSchedule(num_train_timesteps=500)),
        (
            SD15_YAML | {"timesteps": 2, "given_betas": [0.1, 0.2]},
            NoiseSchedule(num_train_timesteps=2, trained_betas=(0.1, 0.2)),
        ),
    ],
)
def test_an_original_yaml_means_what_ldm_makes_of_it(
    params: dict[str, Any], expected: NoiseSchedule, tmp_path: Path
) -> None:
    assert of_file(tmp_path, params) == expected


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"parameterization": "edm"}, "model.yaml has parameterization 'edm'; only eps, v, x0 are rendered here"),
        ({"parameterization": ["v"]}, "model.yaml has parameterization .'v'."),
        ({"beta_schedule": "sqrt"}, "model.yaml has beta_schedule 'sqrt'"),
        ({"beta_schedule": "cosine", "cosine_s": 0.1}, "model.yaml has cosine_s 0.1"),
        ({"timesteps": "many"}, "model.yaml describes no noise schedule: timesteps: Input"),
        ({"linear_start": -1}, "model.yaml describes no noise schedule: linear_start: Input"),
    ],
)
def test_a_yaml_that_is_not_rendered_is_refused(params: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=sentence):
        of_file(tmp_path, SD15_YAML | params)


def test_a_single_file_without_a_yaml_is_sd15s(tmp_path: Path) -> None:
    assert of_file(tmp_path) == SD15


def alphas_of(noise: NoiseSchedule) -> torch.Tensor:
    alphas: torch.Tensor = library("diffusers").DDIMScheduler(**noise.model_dump(), clip_sample=False).alphas_cumprod
    return alphas


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_alphas_that_were_rounded_are_those_of_the_yaml(dtype: torch.dtype, tmp_path: Path) -> None:
    assert of_file(tmp_path, SD15_YAML, {"alphas_cumprod": alphas_of(SD15).to(dtype)}) == SD15


@pytest.mark.parametrize("other", [NoiseSchedule(beta_schedule="linear"), NoiseSchedule(beta_end=0.0125)])
def test_a_checkpoints_own_alphas_count(other: NoiseSchedule, tmp_path: Path) -> None:
    schedule = of_file(tmp_path, SD15_YAML, {"alphas_cumprod": alphas_of(other)})
    assert schedule.trained_betas is not None
    torch.testing.assert_close(alphas_of(schedule), alphas_of(other), rtol=1e-4, atol=1e-6)


def test_a_checkpoint_with_zero_snr_predicts_v_or_is_refused(tmp_path: Path) -> None:
    zero = NoiseSchedule(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    schedule = of_file(tmp_path, SD15_YAML | {"parameterization": "v"}, {"alphas_cumprod": alphas_of(zero)})
    assert alphas_of(schedule)[-1] == 0
    with pytest.raises(ModelRefused, match="alphas_cumprod has a noise schedule that leaves nothing of the picture"):
        of_file(tmp_path, SD15_YAML, {"alphas_cumprod": alphas_of(zero)})


@pytest.mark.parametrize(
    ("alphas", "sentence"),
    [
        (
            torch.linspace(0.9, 0.1, 500),
            r"alphas_cumprod of the shape \(500,\), and the model has 1000",
        ),
        (torch.arange(1000), "alphas_cumprod of the type int64"),
        (torch.linspace(0.1, 0.9, 1000), "alphas_cumprod describes no noise schedule"),
        (torch.full((1000,), float("nan")), "alphas_cumprod describes no noise schedule"),
        (torch.zeros(1000), "alphas_cumprod"),
        (torch.ones(1000), "alphas_cumprod"),
    ],
)
def test_alphas_that_are_no_schedule_are_refused(alphas: torch.Tensor, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=sentence):
        of_file(tmp_path, SD15_YAML, {"alphas_cumprod": alphas})


def test_marks_count_beside_the_alphas_that_trainers_leave_in_the_file(tmp_path: Path) -> None:
    marks = {"v_pred": torch.ones(()), "ztsnr": torch.ones(())}
    zero = NoiseSchedule(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    for alphas in (alphas_of(SD15), alphas_of(SD15).half(), alphas_of(zero)):
        assert of_file(tmp_path, None, marks | {"alphas_cumprod": alphas}) == zero
    other = alphas_of(NoiseSchedule(beta_schedule="linear"))
    with pytest.raises(ModelRefused, match="is marked with ztsnr, and its alphas_cumprod are of another schedule"):
        of_file(tmp_path, None, marks | {"alphas_cumprod": other})


def test_alphas_of_another_schedule_are_too_coarse_in_bfloat16(tmp_path: Path) -> None:
    other = alphas_of(NoiseSchedule(beta_end=0.03)).bfloat16()
    with pytest.raises(ModelRefused, match="in bfloat16, which is too coarse to render with"):
        of_file(tmp_path, SD15_YAML, {"alphas_cumprod": other})


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    """PyYAML alone takes 1e-4 for a text; the original's reader does not."""
    model = save({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    config = tmp_path / "model.yaml"
    config.write_text(yaml.safe_dump(CONFIG).replace("linear_start: 0.00085", "linear_start: 8.5e-4"))
    config.write_text(config.read_text().replace("linear_end: 0.012", "linear_end: 12e-3"))
    assert read_schedule(Weights(model, model, tmp_path, config)) == SD15


def test_a_yaml_beside_the_model_describes_it(tmp_path: Path) -> None:
    model = save({"a": torch.zeros(1)}, tmp_path / "v-model.safetensors")
    params = CONFIG["model"]["params"] | {"parameterization": "v"}
    (tmp_path / "v-model.yaml").write_text(yaml.safe_dump({"model": CONFIG["model"] | {"params": params}}))
    tokenizer = tiny_model() / "model" / "tokenizer"
    weights = find_weights(str(model), tokenizer=str(tokenizer))
    assert weights.original_config == tmp_path / "v-model.yaml"
    assert read_schedule(weights) == NoiseSchedule(prediction_type="v_prediction")


def test_marks_beside_the_weights_are_believed(tmp_path: Path) -> None:
    assert of_file(tmp_path, None, {"v_pred": torch.ones(())}) == NoiseSchedule(prediction_type="v_prediction")
    both = of_file(tmp_path, None, {"v_pred": torch.ones(()), "ztsnr": torch.ones(())})
    assert both == NoiseSchedule(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    with pytest.raises(ModelRefused, match="trained as EDM"):
        of_file(tmp_path, None, {"edm_vpred.sigma_max": torch.ones(())})


@pytest.mark.parametrize(
    ("value", "expected"), [("v", "v_prediction"), ("v_prediction", "v_prediction"), ("epsilon", "epsilon")]
)
def test_without_a_yaml_the_header_of_a_file_says_what_it_predicts(tmp_path: Path, value: str, expected: str) -> None:
    """As kohya's trainer and others write it; other programs copy headers into merges, so a .yaml goes first."""
    model = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1)}, model, metadata={"modelspec.prediction_type": value})
    assert read_schedule(Weights(model, model, tmp_path)).prediction_type == expected
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(CONFIG))
    assert read_schedule(Weights(model, model, tmp_path, tmp_path / "model.yaml")) == SD15
