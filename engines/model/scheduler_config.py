"""A model's noise schedule: from scheduler_config.json, or from an original .yaml and the checkpoint's own values.

A scheduler_config.json means what diffusers' `DDIMScheduler.from_config` makes of it, whatever class it names. There is
one exception: where `clip_sample` is absent and the class is not DDIMScheduler, it counts as false, since most samplers
have no such field.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from engines.errors import ModelRefused
from engines.model.checkpoint import read_config
from engines.model.config_rules import class_defaults
from engines.model.fields import check_fields
from engines.model.json_file import read_json
from engines.model.libraries import library, quiet_libraries
from engines.model.locate import Weights
from engines.model.rules.scheduler import OTHER_MATHEMATICS, SCHEDULER_RULES
from engines.model.tensor_files import metadata_of, read_tensors
from engines.noise_schedule import SD15, NoiseSchedule

CONFIG = Path("scheduler") / "scheduler_config.json"
DDIM = "DDIMScheduler"
_PREDICTIONS = {"eps": "epsilon", "v": "v_prediction", "x0": "sample"}
# The names in ldm's make_beta_schedule, which calls the square of a linear sequence "linear".
_BETA_SCHEDULES = {"linear": "scaled_linear", "sqrt_linear": "linear", "cosine": "squaredcos_cap_v2"}
_COSINE_OFFSET = 0.008
_IN_A_YAML = {
    "num_train_timesteps": "timesteps",
    "beta_start": "linear_start",
    "beta_end": "linear_end",
    "trained_betas": "given_betas",
}
# Tensors that some trainers put beside the weights, as marks: what they say is true if they are there.
_MARKS: dict[str, dict[str, Any]] = {
    "v_pred": {"prediction_type": "v_prediction"},
    "ztsnr": {"rescale_betas_zero_snr": True},
}
# What trainers write into a safetensors file's header: Stability AI's ModelSpec.
_MODELSPEC, _V = "modelspec.prediction_type", ("v", "v_prediction")
_EDM_MARKS = ("edm_vpred.sigma_max", "edm_vpred.sigma_min")
_ALPHAS = "alphas_cumprod"
# How far a checkpoint's alphas_cumprod may be from the computed ones by rounding alone, as a share of each.
_ROUNDING = {
    torch.float64: 1e-4,
    torch.float32: 1e-4,
    torch.float16: 2e-3,
    torch.bfloat16: 1.6e-2,
    torch.float8_e4m3fn: 0.13,
    torch.float8_e5m2: 0.26,
}
_COARSE = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


def read_schedule(weights: Weights) -> NoiseSchedule:
    """The schedule of a model: of its scheduler folder, or of a single file.

    Raises:
        ModelRefused: it cannot be read, or asks for mathematics that are not supported; the sentence names the field.
    """
    if weights.model.is_file():
        return _of_single_file(weights.model, weights.original_config)
    return _of_folder(weights.model / CONFIG)


def _of_folder(path: Path) -> NoiseSchedule:
    config = read_json(path, missing=f"{path} is missing: it says how the model was trained to remove noise")
    class_name = config.get("_class_name", DDIM)
    if not isinstance(class_name, str) or OTHER_MATHEMATICS.search(class_name):
        raise ModelRefused(f"{path} names {class_name}: models that were trained for it cannot be rendered with DDIM")
    check_fields(str(path), config, SCHEDULER_RULES)
    given = _given_to_ddim(config)
    if given.get("clip_sample", class_name == DDIM):
        raise ModelRefused(
            f"{path} has no clip_sample, and {DDIM} means true without it, which is not supported; if the model was "
            'not trained for clipping, which is usual, write "clip_sample": false into the file'
        )
    fields = class_defaults("diffusers", DDIM) | given
    return _checked(str(path), {name: fields[name] for name in NoiseSchedule.model_fields})


def _given_to_ddim(config: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that `DDIMScheduler.from_config` takes from a configuration. Nothing is computed from them here."""
    with quiet_libraries():
        given: dict[str, Any] = library("diffusers").DDIMScheduler.extract_init_dict(dict(config))[0]
    return given


def _of_single_file(path: Path, original_config: Path | None) -> NoiseSchedule:
    where = str(path if original_config is None else original_config)
    fields = SD15.model_dump()
    if original_config is not None:
        fields |= _of_original(where, read_config(original_config)["model"]["params"])
    beside = read_tensors(path, lambda name: name in {_ALPHAS, *_MARKS, *_EDM_MARKS})
    if any(name in beside for name in _EDM_MARKS):
        raise ModelRefused(f"{path} says that it was trained as EDM (edm_vpred): it cannot be rendered with DDIM")
    plain = _checked(where, fields, names=_IN_A_YAML)
    for mark, meaning in _MARKS.items():
        if mark in beside:
            fields |= meaning
    if original_config is None and metadata_of(path).get(_MODELSPEC) in _V:
        fields |= _MARKS["v_pred"]
    marked = _checked(str(path), fields)
    return _with_own_alphas(path, beside[_ALPHAS], (marked, plain)) if _ALPHAS in beside else marked


def _of_original(where: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that an original .yaml decides; absent ones have the defaults of ldm's DDPM class."""
    fields = {
        "prediction_type": _named(where, params, "parameterization", "eps", _PREDICTIONS),
        "num_train_timesteps": params.get("timesteps", 1000),
        "beta_start": params.get("linear_start", 1e-4),
        "beta_end": params.get("linear_end", 2e-2),
    }
    if params.get("given_betas") is not None:
        return fields | {"trained_betas": params["given_betas"]}
    kind = _named(where, params, "beta_schedule", "linear", _BETA_SCHEDULES)
    if kind == "squaredcos_cap_v2" and params.get("cosine_s", _COSINE_OFFSET) != _COSINE_OFFSET:
        raise ModelRefused(f"{where} has cosine_s {params['cosine_s']!r}; only {_COSINE_OFFSET} is supported")
    return fields | {"beta_schedule": kind}


def _named(where: str, params: Mapping[str, Any], name: str, default: str, known: Mapping[str, str]) -> str:
    value = params.get(name, default)
    if not isinstance(value, str) or value not in known:
        raise ModelRefused(f"{where} has {name} {value!r}; only {', '.join(known)} are rendered here")
    return known[value]


def _with_own_alphas(path: Path, alphas: Tensor, known: tuple[NoiseSchedule, NoiseSchedule]) -> NoiseSchedule:
    """The schedule of a checkpoint that has alphas_cumprod: the original samples with these.

    `known`: the schedule with the file's marks, and without them. If the file's values are those of either, up to the
    rounding of their type, the first one is right: trainers mark a file and leave the old values in it.
    """
    schedule, _ = known
    kind = str(alphas.dtype).removeprefix("torch.")
    if alphas.dtype not in _ROUNDING:
        raise ModelRefused(f"{path} has {_ALPHAS} of the type {kind}; they must be floating-point numbers")
    if alphas.ndim != 1 or len(alphas) != schedule.num_train_timesteps:
        raise ModelRefused(
            f"{path} has {_ALPHAS} of the shape {tuple(alphas.shape)}, and the model has "
            f"{schedule.num_train_timesteps} training timesteps; the model's .yaml says them: --original-config"
        )
    own = alphas.double()
    relative, absolute = _ROUNDING[alphas.dtype], 2e-3 if alphas.dtype in _COARSE else 1e-6
    computed = (_scheduler(each).alphas_cumprod.double() for each in known)
    if any(torch.allclose(own, each, rtol=relative, atol=absolute) for each in computed):
        return schedule
    if schedule.rescale_betas_zero_snr:
        raise ModelRefused(f"{path} is marked with ztsnr, and its {_ALPHAS} are of another schedule")
    if alphas.dtype in _COARSE:
        raise ModelRefused(
            f"{path} has {_ALPHAS} of another schedule than its .yaml's, in {kind}, which is too coarse to render "
            "with; the model's .yaml says them: --original-config"
        )
    betas = 1 - own / torch.cat([torch.ones(1, dtype=torch.float64), own[:-1]])
    fields = schedule.model_dump() | {"trained_betas": betas.tolist()}
    return _checked(f"{path}: {_ALPHAS}", fields)


def _checked(where: str, fields: Mapping[str, Any], *, names: Mapping[str, str] | None = None) -> NoiseSchedule:
    """The schedule, if every step of it can be computed. `names`: what the file calls the fields."""
    try:
        schedule = NoiseSchedule.model_validate_json(json.dumps(fields), strict=True)
    except (ValidationError, TypeError, ValueError) as error:
        raise ModelRefused(f"{where} describes no noise schedule: {_problem(error, names or {})}") from error
    _check_alphas(where, schedule)
    return schedule


def _check_alphas(where: str, schedule: NoiseSchedule) -> None:
    alphas = _scheduler(schedule).alphas_cumprod
    decreasing = bool((alphas[1:] <= alphas[:-1]).all()) and bool(alphas[-1] >= 0) and bool(alphas[0] < 1)
    if not decreasing:  # NaN among them fails too
        raise ModelRefused(f"{where} has betas that do not make a noise schedule: they must be above 0 and at most 1")
    if not bool((alphas[:-1] > 0).all()) or (schedule.prediction_type == "epsilon" and not alphas[-1] > 0):
        raise ModelRefused(
            f"{where} has a noise schedule that leaves nothing of the picture: steps would divide by zero"
        )


def _scheduler(schedule: NoiseSchedule) -> Any:
    with quiet_libraries():
        return library("diffusers").DDIMScheduler(**schedule.model_dump(), clip_sample=False)


def _problem(error: Exception, names: Mapping[str, str]) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    problem = error.errors(include_url=False)[0]
    place = [names.get(str(part), str(part)) for part in problem["loc"]]
    message = problem["msg"].removeprefix("Value error, ")
    return f"{'.'.join(place)}: {message}" if place else message
