"""What docs/canny2image.md says of the original, of diffusers and of us, held by formulas written after their code."""

from __future__ import annotations

import inspect
import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import diffusers
import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from PIL import Image

from engines.noise_schedule import SD15
from jobs.job import DEFAULT_A_PROMPT, DEFAULT_N_PROMPT
from jobs.picture_size import target_size
from tests.worker.test_prepare import job, prepared
from worker.image.canny import three_channels
from worker.prepare import control_scales, full_prompt
from worker.render import ddim
from worker.render.decoding import Decoding

PAGE = Path(__file__).parents[2] / "docs" / "canny2image.md"
ORIGINAL_N_PROMPT = (
    "longbody, lowres, bad anatomy, bad hands, missing fingers, extra digit, fewer digits, cropped, worst quality, "
    "low quality"
)
DIVISORS = [steps for steps in range(1, 101) if 1000 % steps == 0]


def page() -> str:
    return " ".join(PAGE.read_text(encoding="utf-8").split())


def original_timesteps(steps: int) -> list[int]:
    """`make_ddim_timesteps(..., 'uniform')` of the original, least noisy first."""
    return [t + 1 for t in range(0, 1000, 1000 // steps)]


def our_timesteps(steps: int) -> list[int]:
    return [int(t) for t in ddim.schedule(SD15, steps, 0.0).timesteps[::-1]]


def diffusers_timesteps(steps: int) -> list[int]:
    scheduler: Any = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, set_alpha_to_one=False
    )
    scheduler.set_timesteps(steps)
    return [int(t) for t in reversed(scheduler.timesteps)]


@pytest.mark.parametrize("steps", DIVISORS)
def test_steps_that_divide_1000_are_the_same_in_all_three(steps: int) -> None:
    assert our_timesteps(steps) == diffusers_timesteps(steps) == original_timesteps(steps)


@pytest.mark.parametrize(("steps", "taken"), [(7, 8), (30, 31), (48, 50), (334, 500), (499, 500)])
def test_the_original_takes_more_steps_than_asked_for_and_we_do_not(steps: int, taken: int) -> None:
    assert len(original_timesteps(steps)) == taken
    assert our_timesteps(steps) == diffusers_timesteps(steps)
    assert len(our_timesteps(steps)) == steps


def test_the_page_s_numbers_of_steps_are_those_of_the_formulas() -> None:
    assert (our_timesteps(7)[-1], original_timesteps(7)[-1]) == (853, 995)
    failing = [steps for steps in range(1, 1000) if max(original_timesteps(steps)) > 999]
    assert failing[:16] == [3, 9, 27, 36, 37, *range(101, 112)]
    assert all(len(original_timesteps(steps)) == 500 for steps in range(334, 500))
    assert all(len(original_timesteps(steps)) > steps for steps in range(1, 1000) if 1000 % steps)
    assert f"choose {', '.join(map(str, DIVISORS[:-1]))} or {DIVISORS[-1]} steps" in page()


@pytest.mark.parametrize("samples", [1, 2, 4])
def test_the_noise_of_the_first_sample_is_the_original_s_on_a_cpu_and_of_later_ones_it_is_not(samples: int) -> None:
    shape, seed = (4, 16, 24), 5
    torch.manual_seed(seed)  # the original: one generator, one draw of all samples, and one more each step
    initial = torch.randn((samples, *shape))
    later = torch.randn((samples, *shape))
    generators = [torch.Generator("cpu").manual_seed(seed + k) for k in range(samples)]
    ours = [torch.randn(shape, generator=generator) for generator in generators]
    assert torch.equal(ours[0], initial[0])
    assert not any(torch.equal(mine, theirs) for mine, theirs in zip(ours[1:], initial[1:], strict=True))
    assert torch.equal(torch.randn(shape, generator=generators[0]), later[0]) == (samples == 1)


def test_a_list_of_generators_makes_diffusers_draw_our_noise() -> None:
    from diffusers.utils.torch_utils import randn_tensor

    shape = (4, 16, 24)
    generators = [torch.Generator("cpu").manual_seed(5 + k) for k in range(2)]
    drawn = randn_tensor((2, *shape), generator=generators, dtype=torch.float32)
    ours = [torch.randn(shape, generator=torch.Generator("cpu").manual_seed(5 + k)) for k in range(2)]
    assert torch.equal(drawn, torch.stack(ours))
    half = randn_tensor((1, *shape), generator=torch.Generator("cpu").manual_seed(5), dtype=torch.float16)
    # Drawn in float32 and rounded; torch 2.11 draws some of them one last digit apart.
    torch.testing.assert_close(half[0], ours[0].half(), rtol=2**-9, atol=2**-13)


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 9.0])
def test_guidance_follows_the_original_s_formula_at_every_scale(scale: float) -> None:
    unconditional, conditional = torch.randn((2, 1, 4, 8, 8), generator=torch.Generator().manual_seed(0)).unbind()
    guided = ddim.guide(torch.cat([unconditional, conditional]), torch.tensor([scale]))
    original = conditional if scale == 1 else unconditional + scale * (conditional - unconditional)
    torch.testing.assert_close(guided, original)
    if scale == 0:
        assert torch.equal(guided, unconditional)


@pytest.mark.parametrize(("scale", "guides"), [(0.0, False), (0.5, False), (1.0, False), (1.001, True), (9.0, True)])
def test_diffusers_switches_guidance_off_at_1_and_below(scale: float, guides: bool) -> None:
    pipeline = SimpleNamespace(
        _guidance_scale=scale, unet=SimpleNamespace(config=SimpleNamespace(time_cond_proj_dim=None))
    )
    guidance = inspect.getattr_static(diffusers.StableDiffusionControlNetPipeline, "do_classifier_free_guidance")
    assert guidance.fget(pipeline) is guides


def test_guess_mode_s_scales_are_the_original_s_and_a_little_below_diffusers() -> None:
    _, ours = control_scales(job(strength=1.0, guess_mode=True).parameters)
    assert ours == tuple(0.825 ** float(12 - i) for i in range(13))
    theirs = torch.logspace(-1, 0, 13).tolist()
    assert theirs == pytest.approx([10 ** ((i - 12) / 12) for i in range(13)], rel=1e-6)
    more = [b / a - 1 for a, b in zip(ours, theirs, strict=True)]
    assert max(more) == more[0] == pytest.approx(0.006, abs=0.0005)


def test_an_empty_a_prompt_leaves_no_comma() -> None:
    assert full_prompt(job(prompt="a cat", a_prompt="").parameters) == "a cat"
    assert full_prompt(job(prompt="a cat").parameters) == f"a cat, {DEFAULT_A_PROMPT}"


def test_the_default_negative_prompt_is_the_beginning_of_the_original_s() -> None:
    assert ORIGINAL_N_PROMPT.split(", ")[:5] == DEFAULT_N_PROMPT.split(", ")
    assert len(ORIGINAL_N_PROMPT.split(", ")) == 10
    assert f"`{ORIGINAL_N_PROMPT}`" in page()


def test_the_edge_map_is_white_on_black() -> None:
    result = prepared(job())
    edges = np.asarray(Image.open(io.BytesIO(result.canny_png)))
    assert np.array_equal(edges, result.specs[0].edges)
    assert set(np.unique(edges)) == {0, 255}
    assert (edges == 255).mean() < 0.5


def test_opencv_takes_thresholds_in_any_order_and_a_row_has_them_in_order() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert np.array_equal(cv2.Canny(picture, 200, 100), cv2.Canny(picture, 100, 200))
    with pytest.raises(ValueError, match="must not exceed"):
        job(low_threshold=200, high_threshold=100)


@pytest.mark.parametrize("resolution", [64, 512, 768])
def test_sizes_are_the_original_s(resolution: int) -> None:
    rng = np.random.default_rng(resolution)
    sizes = [(1, 1), (100, 150), (352, 512), (480, 640), (512, 608), *rng.integers(16, 4000, (200, 2)).tolist()]
    for height, width in sizes:
        if max(height, width) * resolution / min(height, width) > 4000:
            continue
        factor = float(resolution) / min(float(height), float(width))
        original = tuple(int(np.round(float(side) * factor / 64.0)) * 64 for side in (height, width))
        assert target_size(height, width, resolution) == original


def test_transparency_is_blended_over_white_as_in_the_original() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    colour, alpha = picture[..., :3].astype(np.float32), picture[..., 3:].astype(np.float32) / 255.0
    original = (colour * alpha + 255.0 * (1.0 - alpha)).clip(0, 255).astype(np.uint8)
    assert np.array_equal(three_channels(picture), original)


def test_pixels_are_rounded_as_in_diffusers_where_the_original_truncates() -> None:
    images = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(0)) * 2.4 - 1.2
    (ours,) = Decoding(images).pictures()
    assert ours is not None
    (theirs,) = VaeImageProcessor().postprocess(images, output_type="pil")
    original = (images[0].permute(1, 2, 0).numpy() * 127.5 + 127.5).clip(0, 255).astype(np.uint8)
    assert np.array_equal(ours, np.asarray(theirs))
    darker = ours.astype(int) - original
    assert set(np.unique(darker)) == {0, 1}
    inside = (original > 0) & (original < 255)
    assert darker[inside].mean() == pytest.approx(0.5, abs=0.02)


def test_the_noise_schedule_is_the_original_s_to_a_millionth() -> None:
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2  # float64, as the original has it
    original = np.cumprod(1 - betas).astype(np.float32)
    scheduler: Any = diffusers.DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    assert np.abs(scheduler.alphas_cumprod.numpy() / original - 1).max() < 1e-6


def test_the_page_s_infotext_is_what_we_write() -> None:
    from worker.infotext import ModelLabel, infotext

    label = ModelLabel("dreamshaper_8", "control_v11p_sd15_canny", "0123456789" * 6)
    one = job(prompt="a cat on a sofa", seed=5, image_resolution=512)
    shown, _grammar = re.findall(r"```text\n(.*?)\n```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert shown == infotext(one, seed=5, width=768, height=512, label=label)
