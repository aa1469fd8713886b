"""Floating point operations of a guided step, as the standard networks need them, however an engine computes them.

Counted like torch's FlopCounterMode: two for a multiply-add, in convolutions, matrix products and attention only.
"""

from __future__ import annotations

from engines.spec import Geometry

ROWS = 2  # conditional and unconditional
RESNETS = 2  # in each level on the way down; on the way up there is one more
DEEPEST_ATTENTION = 2  # levels 0 to 2 and the middle have transformers


def guided_step_flops(geometry: Geometry, height: int, width: int) -> int:
    """ControlNet (without its hint, which runs once an image) and U-Net for one image of height x width pixels."""
    counts = _Counts(geometry, height, width)
    down = counts.down()
    control = counts.down() + counts.controls()
    return ROWS * (down + control + counts.up() + 2 * counts.time_embedding())


class _Counts:
    """Operations of one row."""

    def __init__(self, geometry: Geometry, height: int, width: int) -> None:
        strides, channels = geometry.control_strides, geometry.control_channels
        self._geometry = geometry
        self._strides = sorted(set(strides))
        # A level's first control has the width of the level before: it is the output of the downsampling between them.
        last = {stride: width for width, stride in zip(channels, strides, strict=True)}
        self._widths = [last[stride] for stride in self._strides]
        self._cells = [height * width // (geometry.vae_factor * stride) ** 2 for stride in self._strides]

    def time_embedding(self) -> int:
        width = self._widths[0]
        return 2 * (width * 4 * width + (4 * width) ** 2)

    def down(self) -> int:
        """conv_in, the levels, the middle."""
        first = _convolution(self._geometry.latent_channels, self._widths[0], self._cells[0])
        total, before = first, self._widths[0]
        for level, width in enumerate(self._widths):
            for _ in range(RESNETS):
                total += self._resnet(before, width, level) + self._transformer(level)
                before = width
            if level + 1 < len(self._widths):
                total += _convolution(width, width, self._cells[level + 1])
        last = len(self._widths) - 1
        middle = self._resnet(before, before, last)
        return total + 2 * middle + self._transformer(last, middle=True)

    def up(self) -> int:
        """The levels from the last to the first, each resnet with a skip, and conv_out."""
        skips = [self._widths[0]]
        for level, width in enumerate(self._widths):
            skips += [width] * RESNETS
            if level + 1 < len(self._widths):
                skips.append(width)
        total, before = 0, self._widths[-1]
        for level in reversed(range(len(self._widths))):
            width = self._widths[level]
            for _ in range(RESNETS + 1):
                total += self._resnet(before + skips.pop(), width, level) + self._transformer(level)
                before = width
            if level:
                total += _convolution(width, width, self._cells[level - 1])
        return total + _convolution(before, self._geometry.latent_channels, self._cells[0])

    def controls(self) -> int:
        """Thirteen 1x1 convolutions."""
        cells = dict(zip(self._strides, self._cells, strict=True))
        sizes = zip(self._geometry.control_channels, self._geometry.control_strides, strict=True)
        return sum(2 * width * width * cells[stride] for width, stride in sizes)

    def _resnet(self, inputs: int, outputs: int, level: int) -> int:
        cells = self._cells[level]
        shortcut = 2 * inputs * outputs * cells if inputs != outputs else 0
        time = 2 * 4 * self._widths[0] * outputs
        return _convolution(inputs, outputs, cells) + _convolution(outputs, outputs, cells) + shortcut + time

    def _transformer(self, level: int, *, middle: bool = False) -> int:
        if level > DEEPEST_ATTENTION and not middle:
            return 0
        width, cells = self._widths[level], self._cells[level]
        text, length = self._geometry.context_width, self._geometry.context_length
        products = 2 * width * width * cells * (2 + 4 + 2)  # in and out; query, key, value, out; query, out
        products += 2 * 2 * text * width * length  # the prompt's keys and values
        products += 2 * width * cells * (8 * width + 4 * width)  # GEGLU
        return products + 4 * cells * cells * width + 4 * cells * length * width


def _convolution(inputs: int, outputs: int, cells: int) -> int:
    """3x3, so many cells of output."""
    return 2 * 9 * inputs * outputs * cells
