"""NoiseSchedule: how a model was trained to remove noise. It is read from the model's scheduler configuration.

Fields have the names and the meaning of diffusers' DDIMScheduler. No torch here: a manifest holds one.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

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

    @model_validator(mode="after")
    def _steps_exist(self) -> NoiseSchedule:
        trained = self.num_train_timesteps
        if self.trained_betas is not None and len(self.trained_betas) != trained:
            raise ValueError(f"there are {len(self.trained_betas)} trained betas and {trained} training timesteps")
        if self.timestep_spacing == "leading" and self.steps_offset >= trained:
            raise ValueError(f"there are {trained} training timesteps, and renders would end at {self.steps_offset}")
        if self.prediction_type == "epsilon" and self.rescale_betas_zero_snr:
            raise ValueError(
                "rescale_betas_zero_snr with epsilon would divide by zero in the first step; a model that was trained "
                "for it predicts v (v_prediction)"
            )
        return self

    def differences(self, other: NoiseSchedule) -> str:
        """The fields that differ from another schedule's, with this one's values; long ones are cut."""
        fields = ((name, value) for name, value in self if getattr(other, name) != value)
        return ", ".join(f"{name} {_shown(value)}" for name, value in fields)


def _shown(value: object) -> str:
    return f"{len(value)} values" if isinstance(value, tuple) else str(value)


SD15 = NoiseSchedule()
