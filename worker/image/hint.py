"""HintMaker: from the pictures of a row to what its ControlNet sees.

`control` says how the hint is made: `canny` finds edges, and with `none` the picture is the hint. It is made from
`control_image` where the row has one. `image` then gives the size of the rendered pictures and nothing else: the
control image is resized to it, and stretched where its proportions are others, as image tools and diffusers do.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from jobs.errors import naming
from jobs.job import RenderParameters
from jobs.picture_size import target_size
from worker.image.canny import canny_edges, edge_warnings, resize_to, three_channels
from worker.image.decode import Picture, decode_image
from worker.image.decode_budget import DecodeBudget

Size = tuple[int, int]  # height and width in pixels
Notes = tuple[str, ...]

STRETCHED = 0.02  # what proportions may differ by, as a share, before a stretched hint is warned of


@dataclass(frozen=True)
class HintMaker:
    """What pictures of a process are decoded with: at most `max_pixels` each, and all of them within `budget`."""

    max_pixels: int
    budget: DecodeBudget

    def hint(self, parameters: RenderParameters, data: bytes, control_data: bytes | None) -> tuple[np.ndarray, Notes]:
        """Files -> the hint at the row's size, uint8 [H, W] edges or [H, W, 3] picture, and what a user should know.

        Raises:
            NotAnImage, SourceTooLarge: a picture cannot be used; the sentence says why.
            Requeued: the worker began to stop while the job waited for the budget.
        """
        assert control_data is not None or parameters.control_image is None, "the control image was not fetched"
        is_hint = parameters.control == "none"

        def row_size(height: int, width: int) -> Size:
            return target_size(height, width, parameters.image_resolution)

        if control_data is None:
            _, picture, notes = self._resized(data, row_size, is_hint=is_hint)
        else:
            size_of_image = self._size(data)
            target = row_size(*size_of_image)
            with naming("control_image"):
                size, picture, notes = self._resized(control_data, lambda *_: target, is_hint=is_hint)
            notes = tuple(f"control_image: {note}" for note in notes) + _stretched(size, size_of_image, target)
        if is_hint:
            return picture, notes + _picture_warnings(picture)
        low, high = parameters.low_threshold, parameters.high_threshold
        edges = canny_edges(picture, low, high)
        return edges, notes + edge_warnings(edges, low, high)

    def _size(self, data: bytes) -> Size:
        """The size after decoding, since it depends on how a picture is turned, and a damaged one must be refused."""
        with ExitStack() as decoding:
            height, width = self._decode(data, decoding).pixels.shape[:2]
        return height, width

    def _resized(
        self, data: bytes, size_of: Callable[[int, int], Size], *, is_hint: bool
    ) -> tuple[Size, np.ndarray, Notes]:
        """The picture's own size, the picture as uint8 [H, W, 3] at `size_of` that, and what decoding changed."""
        with ExitStack() as decoding:
            picture = self._decode(data, decoding)
            height, width = picture.pixels.shape[:2]
            notes = picture.warnings + (_transparency(picture.pixels) if is_hint else ())
            resized = resize_to(three_channels(picture.pixels), size_of(height, width))
            del picture  # before the next picture is admitted
        return (height, width), resized, notes

    def _decode(self, data: bytes, decoding: ExitStack) -> Picture:
        def admit(pixels: int) -> None:
            decoding.enter_context(self.budget.taking(pixels))

        return decode_image(data, max_pixels=self.max_pixels, admit=admit)


def _transparency(pixels: np.ndarray) -> Notes:
    if pixels.ndim == 3 and pixels.shape[2] == 4 and (pixels[:, :, 3] < 255).any():
        return ("the hint is transparent in places, which became white",)
    return ()


def _picture_warnings(picture: np.ndarray) -> Notes:
    if (picture == picture[0, 0]).all():
        return ("the hint has one colour everywhere, so it does not guide the result: is it the right picture?",)
    return ()


def _stretched(size: Size, size_of_image: Size, target: Size) -> Notes:
    (height, width), (image_height, image_width) = size, size_of_image
    proportions = (width * image_height) / (height * image_width)
    if abs(proportions - 1) <= STRETCHED:
        return ()
    return (
        f"control_image has {width}x{height} pixels and image {image_width}x{image_height}, which are other "
        f"proportions: it was stretched to {target[1]}x{target[0]}",
    )
