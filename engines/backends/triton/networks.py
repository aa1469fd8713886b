"""ControlNet and U-Net over blocks.py: the two networks of a step.

What rows have in common is computed once. Both halves of a guided batch hold the same samples at the same timesteps
with the same edges, so up to the first cross-attention there is only one half.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from engines.backends.triton import ops
from engines.backends.triton.blocks import (
    Contexts,
    Downsample,
    Resnet,
    Times,
    Transformer,
    Upsample,
    padded_inputs,
    padded_outputs,
)
from engines.backends.triton.ops import Features
from engines.backends.triton.parameters import Parameters


class Conditions(NamedTuple):
    """What blocks take beside pictures: [R,C] for each resnet, and all keys and values of the prompts."""

    times: list[Tensor]
    contexts: Tensor


Stages = list[tuple[Resnet, Transformer | None]]


class Encoder:
    """The way down and the middle, which U-Net and ControlNet have in common, each with weights of its own."""

    def __init__(self, at: Parameters) -> None:
        self._times, self._contexts = Times(at.at("time_embedding")), Contexts()
        self._conv_in = padded_inputs(at.at("conv_in").weight)
        pending = at.at("conv_in").bias
        self.pendings = [pending]  # of what the stations leave
        self._levels: list[tuple[Stages, Downsample | None]] = []
        for level in range(at.count("down_blocks")):
            block = at.at("down_blocks").at(level)
            stages, pending = self.stages(block, [pending])
            self.pendings += [(attend or resnet).pending for resnet, attend in stages]
            down = None
            if "downsamplers" in block:
                down = Downsample(block.at("downsamplers").at(0), pending)
                self.pendings[-1] = torch.zeros_like(pending)
                pending = down.pending
                self.pendings.append(pending)
            self._levels.append((stages, down))
        middle = at.at("mid_block")
        self._first = self._times.add(Resnet(middle.at("resnets").at(0), pending))
        self._attend = Transformer(middle.at("attentions").at(0), self._first.pending, self._contexts)
        self._last = self._times.add(Resnet(middle.at("resnets").at(1), self._attend.pending))
        self.pendings.append(self._last.pending)
        self.resnets = self._times.count

    def stages(self, block: Parameters, pendings: list[Tensor]) -> tuple[Stages, Tensor]:
        """A block's resnets, each with its transformer if it has one; `pendings` of their inputs, as far as known.

        An input of which nothing is known is the output before it. Returns what is pending in the end, too.
        """
        found: Stages = []
        pending = pendings[0]
        for i in range(block.count("resnets")):
            given = pendings[i] if i < len(pendings) else pending
            resnet = self._times.add(Resnet(block.at("resnets").at(i), given))
            pending = resnet.pending
            attend = None
            if "attentions" in block:
                attend = Transformer(block.at("attentions").at(i), pending, self._contexts)
                pending = attend.pending
            found.append((resnet, attend))
        return found, pending

    def conditions(self, timestep: Tensor, context: Tensor) -> Conditions:
        """timestep [R/2], context [R,77,width]."""
        return Conditions(self._times(timestep, copies=2), self._contexts(context))

    def __call__(self, x: Tensor, conditions: Conditions, *, hint: Tensor | None = None) -> list[Features]:
        """x [R/2,h,w,4] -> what each of the twelve stations left, and the middle; `hint` [R/2,h,w,C] joins at once."""
        times = iter(conditions.times)
        x = ops.convolved(functional.pad(x, (0, self._conv_in.shape[1] - x.shape[3])), self._conv_in)
        if hint is not None:
            x.add_(hint)
        left = [x]
        rows = conditions.contexts.shape[0]
        for stages, down in self._levels:
            for resnet, attend in stages:
                x = resnet(x, next(times)[: x.shape[0]])
                if attend is not None:
                    x = attend(x, conditions.contexts, double=x.shape[0] < rows)
                left.append(x)
            if down is not None:
                x = down(x)
                left.append(x)
        x = self._first(x, next(times))
        x = self._last(self._attend(x, conditions.contexts), next(times))
        return [Features(data, pending) for data, pending in zip([*left, x], self.pendings, strict=True)]


class ControlNet:
    """x_noisy, guided_hint, timestep, context -> thirteen controls, not scaled yet."""

    def __init__(self, at: Parameters) -> None:
        self._encoder = Encoder(at)
        places = [at.at("controlnet_down_blocks").at(i) for i in range(at.count("controlnet_down_blocks"))]
        places.append(at.at("controlnet_mid_block"))
        self._outs = [
            (place.matrix, pending @ place.matrix.float() + place.bias)
            for place, pending in zip(places, self._encoder.pendings, strict=True)
        ]

    def __call__(self, x: Tensor, hint: Tensor, timestep: Tensor, context: Tensor) -> list[Features]:
        """x [R/2,h,w,4], hint [R/2,h,w,C], timestep [R/2], context [R,77,width]."""
        left = self._encoder(x, self._encoder.conditions(timestep, context), hint=hint)
        return [Features(one.data @ out, pending) for one, (out, pending) in zip(left, self._outs, strict=True)]


class Descended(NamedTuple):
    """A U-Net half-way: what its stations left, and what the way up takes beside that."""

    left: list[Features]
    conditions: Conditions


class UNet:
    """The U-Net in two parts: `down` needs no control, so it can run beside the ControlNet; `up` does."""

    def __init__(self, at: Parameters) -> None:
        self._encoder = Encoder(at)
        pending = torch.zeros_like(self._encoder.pendings[-1])  # the middle's joins with its control
        self._levels: list[tuple[Stages, list[Tensor], Upsample | None]] = []
        for level in range(at.count("up_blocks")):
            block = at.at("up_blocks").at(level)
            widths = [block.at("resnets").at(i).at("norm1").weight.shape[0] for i in range(block.count("resnets"))]
            nothing = [torch.zeros(width, device=pending.device) for width in widths]  # all of it joins with skips
            stages, last = self._encoder.stages(block, nothing)
            outputs = [(attend or resnet).pending for resnet, attend in stages]
            up = Upsample(block.at("upsamplers").at(0), last) if "upsamplers" in block else None
            self._levels.append((stages, [pending, *outputs[:-1]], up))
            pending = last if up is None else up.pending
        self._norm_out, self._pending_out = at.at("conv_norm_out").norm, pending
        self._conv_out, self._bias_out = padded_outputs(at.at("conv_out").weight), at.at("conv_out").bias

    def down(self, x: Tensor, timestep: Tensor, context: Tensor) -> Descended:
        """x [R/2,h,w,4], timestep [R/2], context [R,77,width]."""
        conditions = self._encoder.conditions(timestep, context)
        return Descended(self._encoder(x, conditions), conditions)

    def up(self, descended: Descended, controls: list[Features], scales: Tensor) -> Tensor:
        """`scales` float [R,13] -> the predicted noise, [R,h,w,4]."""
        scales = scales.t().contiguous()
        stations = list(zip(descended.left, controls, scales.unbind(0), strict=True))
        times = iter(descended.conditions.times[self._encoder.resnets :])
        middle, control, scale = stations.pop()
        x = ops.joined(None, middle, control, scale)
        for stages, pendings, up in self._levels:
            for (resnet, attend), pending in zip(stages, pendings, strict=True):
                skip, control, scale = stations.pop()
                x = ops.joined(Features(x, pending), skip, control, scale)
                x = resnet(x, next(times))
                if attend is not None:
                    x = attend(x, descended.conditions.contexts)
            if up is not None:
                x = up(x)
        x = ops.group_norm(x, self._pending_out, self._norm_out, silu=True)
        return ops.convolved(x, self._conv_out)[..., : self._bias_out.shape[0]] + self._bias_out.to(x.dtype)
