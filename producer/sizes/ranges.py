"""Ranges of sizes, as `engines build --shape` takes them: few arguments that cover many sizes.

Pictures that are resized by their short side have that side in common: a range from 512x512 to 512x1024 covers all of
those that lie, 512x512 to 1024x512 all that stand. Neither covers a picture that is larger than the largest of its
own, so an engine needs no memory for sizes that no row has, as it would for one range around all.
"""

from __future__ import annotations

from collections.abc import Iterable

from producer.sizes.tally import Size


def ranges(sizes: Iterable[Size]) -> list[str]:
    """Ranges that cover all sizes: for each short side one for those that lie, and one for those that stand."""
    known = sorted(set(sizes))
    found = []
    for side in sorted({min(size) for size in known}):
        lying = [size for size in known if size.height == side and size.width > side]
        standing = [size for size in known if size.width == side and size.height > side]
        square = [size for size in known if size == (side, side)]
        if lying or not standing:
            lying = square + lying
        else:
            standing = square + standing
        found += [_range(group) for group in (lying, standing) if group]
    return found


def _range(group: list[Size]) -> str:
    smallest, largest = group[0], group[-1]
    return smallest.text if smallest == largest else f"{smallest.text}:{largest.text}"
