"""What is done with every field of a scheduler configuration: read, held to some values, or another sampler's.

Every sampler of diffusers can be saved with a model. A render always takes DDIM steps, so the fields that describe
other samplers change nothing; those that describe the model's training are read.
"""

from __future__ import annotations

import re

from engines.model.fields import Ignored, MustBe, Rules, Used

# Classes for models that were trained in another way: no DDIM step is right for them.
OTHER_MATHEMATICS = re.compile(
    "FlowM|EDM|LTX|Helios|Piflow|MiniMax|CosineDPM|KarrasVe|ScoreSde|ConsistencyDecoder|CMStochastic|VQDiffusion|Amused|"
    "Wuerstchen|CogVideoX|UnCLIP|SCMScheduler|BlockRefinement|DiscreteDDIM|EntropyBound|Proteina"
)
_OTHER_SAMPLER = Ignored("of another sampler; renders take DDIM steps")
_FLOW = "of flow matching"
_EDM = "of EDM preconditioning"

SCHEDULER_RULES: Rules = {
    "num_train_timesteps": Used("the number of training timesteps"),
    "beta_start": Used("the noise of the first training step"),
    "beta_end": Used("the noise of the last training step"),
    "beta_schedule": MustBe(("scaled_linear", "linear", "squaredcos_cap_v2"), "the noise between them"),
    "trained_betas": Used("the noise of every training step, instead of the three above"),
    "rescale_betas_zero_snr": Used("whether the last training step holds nothing but noise; not with epsilon"),
    "prediction_type": MustBe(("epsilon", "v_prediction", "sample"), "what the U-Net predicts"),
    "timestep_spacing": MustBe(("leading", "trailing", "linspace"), "which timesteps a render visits"),
    "steps_offset": Used("added to the timesteps of leading spacing"),
    "set_alpha_to_one": Used("whether the last step ends without any noise"),
    "clip_sample": MustBe(
        (False, None), "clips what is predicted; where it is absent, DDIMScheduler means true and other classes false"
    ),
    "clip_sample_range": Ignored("changes nothing without clip_sample"),
    "thresholding": MustBe((False, None), "clips what is predicted by its distribution"),
    "dynamic_thresholding_ratio": Ignored("changes nothing without thresholding"),
    "sample_max_value": Ignored("changes nothing without thresholding"),
    "variance_type": MustBe(
        (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
        "of another sampler; a learned variance is another U-Net",
    ),
    "timestep_type": MustBe(("discrete",), "how Euler steps number the timesteps; continuous ones are EDM's"),
    "use_flow_sigmas": MustBe((False, None), _FLOW),
    "use_dynamic_shifting": MustBe((False, None), _FLOW),
    "flow_shift": Ignored("changes nothing without use_flow_sigmas"),
    "shift_terminal": Ignored("changes nothing without use_flow_sigmas"),
    "time_shift_type": Ignored("changes nothing without use_flow_sigmas"),
    "sigma_data": MustBe((None,), _EDM),
    "sigma_schedule": MustBe((None,), _EDM),
    "rho": MustBe((None,), _EDM),
    "predict_epsilon": MustBe((True, None), "prediction_type's predecessor"),
    "timestep_values": MustBe((None,), "timesteps that old versions took from a list"),
    "tensor_format": Ignored("how old versions returned tensors"),
    "snr_shift_scale": MustBe((None, 1, 1.0), "of video models"),
    **dict.fromkeys(
    (
            "algorithm_type", "corrector_order", "disable_corrector", "euler_at_final", "final_sigmas_type",
            "interpolation_type", "lambda_min_clipped", "lower_order_final", "original_inference_steps", "predict_x0",
            "predictor_order", "sigma_max", "sigma_min", "skip_prk_steps", "solver_order", "solver_p", "solver_type",
            "tau_func", "timestep_scaling", "use_beta_sigmas", "use_exponential_sigmas", "use_karras_sigmas",
            "use_lu_lambdas",
        ),
        _OTHER_SAMPLER,
    ),
}  # fmt: skip
