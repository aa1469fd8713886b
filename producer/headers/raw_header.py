"""RawHeader: what a file says of its picture, before it is turned."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import ExifTags, Image

from producer.picture_texts import DAMAGED_EXIF, without_warnings

ON_ITS_SIDE = (5, 6, 7, 8)  # of EXIF's orientations


@dataclass(frozen=True)
class RawHeader:
    """Width and height in pixels, as stored, and what may say that the picture lies on its side.

    `exif` and `xmp` are those of the file. `exif_text` is EXIF as ImageMagick writes it into a text of a PNG. `turned`
    says it outright, where the format itself does.
    """

    width: int
    height: int
    exif: bytes | None = None
    xmp: bytes | None = None
    exif_text: str | None = None
    turned: bool | None = None

    def upright(self) -> tuple[int, int]:
        """Width and height of the picture the right way up."""
        turned = self._lies() if self.turned is None else self.turned
        return (self.height, self.width) if turned else (self.width, self.height)

    def _lies(self) -> bool:
        """Whether its EXIF, or else its XMP, says so: by Pillow's own reading, as in a worker."""
        image = Image.Image()
        for key, value in (("exif", self.exif), ("xmp", self.xmp), ("Raw profile type exif", self.exif_text)):
            if value is not None:
                image.info[key] = value
        if not image.info:
            return False
        try:
            with without_warnings():
                return image.getexif().get(ExifTags.Base.Orientation, 1) in ON_ITS_SIDE
        except DAMAGED_EXIF:  # such a picture stays as it is stored, in a worker too
            return False
