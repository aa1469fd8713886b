"""NoiseSchedule: how a model was trained to remove noise. It is read from the model's scheduler configuration.

Fields have the names and the meaning of diffusers' DDIMScheduler. No torch here: a manifest holds one.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

BetaSchedule = Literal["scaled_linear", "linear", "squaredcos_cap_v2"]
PredictionType = Literal["epsilon", "v_prediction", "sample"]
TimestepSpacing = Literal["leading", "trailing", "linspace"]

Beta = Annotated[float, Field(ge=0, le=1)]  # the variance of the noise that a training step adds
MOST_TIMESTEPS = 100_000


class NoiseSchedule(BaseModel):
    """Noise levels of the training, what the U-Net predicts, and which timesteps a render visits. Defaults: SD1.5.

    `trained_betas`, one value a training step, replaces what `beta_schedule`, `beta_start` and `beta_end` describe.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_train_timesteps: Annotated[int, Field(ge=1, le=MOST_TIMESTEPS)] = 1000
    beta_schedule: BetaSchedule = "scaled_linear"
    beta_start: Beta = 0.00085
    beta_end: Beta = 0.012
    trained_betas: tuple[Beta, ...] | None = None
    rescale_betas_zero_snr: bool = False
    prediction_type: PredictionType = "epsilon"
    timestep_spacing: TimestepSpacing = "leading"
    steps_offset: Annotated[int, Field(ge=0)] = 1
    set_alpha_to_one: bool = False


SD15 = NoiseSchedule()
