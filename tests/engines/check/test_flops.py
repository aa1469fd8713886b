"""Operations of a guided step, against what torch counts in diffusers' own networks (on no device: nothing is run)."""

from __future__ import annotations

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from engines.check.flops import guided_step_flops
from engines.model.networks import wrap
from engines.spec import Geometry, component_specs

WIDTHS = [(320, 640, 1280, 1280), (32, 64, 96, 128)]


def counted(widths: tuple[int, ...], geometry: Geometry, height: int, width: int) -> int:
    options = {"block_out_channels": widths, "cross_attention_dim": geometry.context_width, "attention_head_dim": 8}
    with torch.device("meta"):
        networks = {
            "unet": UNet2DConditionModel(**options),
            "controlnet": ControlNetModel(**options, conditioning_embedding_out_channels=(16, 32, 96, 256)),
        }
    total = 0
    for name, spec in component_specs(geometry).items():
        if name in networks:
            inputs = [torch.empty(tensor.sized(1, height=height, width=width), device="meta") for tensor in spec.inputs]
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                wrap(name, networks[name])(*inputs)
            total += counter.get_total_flops()
    return total


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize(("height", "width"), [(512, 512), (256, 384)])
def test_as_torch_counts_them(widths: tuple[int, ...], height: int, width: int) -> None:
    one, two, three, four = widths
    geometry = Geometry(
        hint_channels=one, control_channels=(one,) * 4 + (two,) * 3 + (three,) * 3 + (four,) * 3, context_width=768
    )
    assert guided_step_flops(geometry, height, width) == counted(widths, geometry, height, width)


def test_sd15_at_512_pixels() -> None:
    assert guided_step_flops(Geometry(), 512, 512) / 1e12 == pytest.approx(2.144, abs=0.001)
