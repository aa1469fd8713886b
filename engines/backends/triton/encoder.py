"""The encoder of ControlNet and U-Net: the way down and the middle, with weights of each network's own.

Work that rows have in common is done once. Both halves of a guided batch hold the same samples at the same timesteps
with the same edges, so there is only one half up to the first cross-attention.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from engines.backends.triton import ops
from engines.backends.triton.blocks import Contexts, Downsample, Resnet, Times, Transformer, padded_inputs
from engines.backends.triton.operands import Features
from engines.backends.triton.parameters import Parameters


class Conditions(NamedTuple):
    """What blocks take besides features: [R,C] for each resnet, and all keys and values of the prompts."""

    times: list[Tensor]
    contexts: Tensor


Layers = list[tuple[Resnet, Transformer | None]]


class Encoder:
    """conv_in, the levels down, the middle."""

    def __init__(self, at: Parameters) -> None:
        self._times, self._contexts = Times(at.at("time_embedding")), Contexts()
        self._conv_in = padded_inputs(at.at("conv_in").weight)
        deferred = at.at("conv_in").bias
        self.deferred = [deferred]  # of each skip connection, and of the middle
        self._levels: list[tuple[Layers, Downsample | None]] = []
        for block in at.each("down_blocks"):
            layers, deferred = self.layers(block, [deferred])
            self.deferred += [(transformer or resnet).deferred for resnet, transformer in layers]
            down = None
            if "downsamplers" in block:
                down = Downsample(block.at("downsamplers", 0), deferred)
                self.deferred[-1] = torch.zeros_like(deferred)  # the downsampling adds it in place
                deferred = down.deferred
                self.deferred.append(deferred)
            self._levels.append((layers, down))
        middle = at.at("mid_block")
        self._first = self._times.add(Resnet(middle.at("resnets", 0), deferred))
        self._transformer = Transformer(middle.at("attentions", 0), self._first.deferred, self._contexts)
        self._last = self._times.add(Resnet(middle.at("resnets", 1), self._transformer.deferred))
        self.deferred.append(self._last.deferred)
        self.resnets = self._times.count

    def layers(self, block: Parameters, deferred: list[Tensor]) -> tuple[Layers, Tensor]:
        """A block's resnets, each with its transformer if it has one, and the deferred bias of the last output.

        `deferred` are the deferred biases of the resnets' inputs; a resnet beyond their end reads the output before it.
        """
        layers: Layers = []
        last = deferred[0]
        for i, parameters in enumerate(block.each("resnets")):
            resnet = self._times.add(Resnet(parameters, deferred[i] if i < len(deferred) else last))
            last = resnet.deferred
            transformer = None
            if "attentions" in block:
                transformer = Transformer(block.at("attentions", i), last, self._contexts)
                last = transformer.deferred
            layers.append((resnet, transformer))
        return layers, last

    def conditions(self, timestep: Tensor, context: Tensor) -> Conditions:
        """timestep [R/2], context [R,77,width]."""
        return Conditions(self._times(timestep, copies=2), self._contexts(context))

    def __call__(self, x: Tensor, conditions: Conditions, *, hint: Tensor | None = None) -> list[Features]:
        """x [R/2,h,w,4] -> the twelve skip connections and the middle; `hint` [R/2,h,w,C] is added after conv_in."""
        times = iter(conditions.times)
        x = ops.convolved(functional.pad(x, (0, self._conv_in.shape[1] - x.shape[3])), self._conv_in)
        if hint is not None:
            x.add_(hint)
        skips = [x]
        rows = conditions.contexts.shape[0]
        for layers, down in self._levels:
            for resnet, transformer in layers:
                x = resnet(x, next(times)[: x.shape[0]])
                if transformer is not None:
                    x = transformer(x, conditions.contexts, double=x.shape[0] < rows)
                skips.append(x)
            if down is not None:
                x = down(x)
                skips.append(x)
        x = self._first(x, next(times))
        x = self._last(self._transformer(x, conditions.contexts), next(times))
        return [Features(data, deferred) for data, deferred in zip([*skips, x], self.deferred, strict=True)]
