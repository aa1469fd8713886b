"""A batch of all kinds of bad pictures among good ones: each bad one fails with its sentence, the others render."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.job import RenderResult
from tests import forked
from tests.integration.conftest import REAL, Site
from tests.jobs.web_server import reply, serving


def photograph(mode: str = "RGB", size: tuple[int, int] = (96, 64)) -> Image.Image:
    """A picture with edges: a gradient and a bright square."""
    width, height = size
    pixels = np.linspace(0, 120, width * height, dtype=np.float32).reshape(height, width)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = 250
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn by 90 degrees
    return encoded(photograph(), "JPEG", exif=exif)


def animated() -> bytes:
    return encoded(photograph(), "GIF", save_all=True, append_images=[photograph().rotate(90)])


def sixteen_bits() -> bytes:
    values = np.linspace(0, 65535, 64 * 96, dtype=np.uint16).reshape(64, 96)
    return encoded(Image.fromarray(values), "PNG")


def bomb() -> bytes:
    """A PNG of 20,000 x 5,000 pixels in a few hundred bytes: refused by its header, before it is unpacked."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 20_000, 5_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


# File -> (bytes, or None for no file; error kind; words of the error), and file -> (bytes; words of the warning or '').
FAILING: dict[str, tuple[Callable[[], bytes | None], str, str]] = {
    "missing.png": (lambda: None, "source_not_found", "does not exist"),
    "empty.png": (lambda: b"", "not_an_image", "0 bytes"),
    "text.png": (lambda: b"<html>not found</html>", "not_an_image", "not a picture"),
    "truncated.jpg": (lambda: encoded(photograph(), "JPEG")[:400], "not_an_image", "truncated"),
    "bomb.png": (bomb, "source_too_large", "RENDER_MAX_PIXELS"),
    "ribbon.png": (lambda: encoded(photograph(size=(6400, 8)), "PNG"), "source_too_large", "crop it"),
}
RENDERED: dict[str, tuple[Callable[[], bytes], str]] = {
    "good.png": (lambda: encoded(photograph(), "PNG"), ""),
    "grey.png": (lambda: encoded(photograph("L"), "PNG"), ""),
    "alpha.png": (lambda: encoded(photograph("RGBA"), "PNG"), ""),
    "palette.gif": (lambda: encoded(photograph("P"), "GIF"), ""),
    "cmyk.jpg": (lambda: encoded(photograph("CMYK"), "JPEG"), "CMYK"),
    "sixteen.png": (sixteen_bits, "16 bits"),
    "animated.gif": (animated, "first of 2 frames"),
    "rotated.jpg": (rotated, ""),
}


@pytest.fixture
def rows(site: Site) -> list[str]:
    """Pictures in the site's folder, by name."""
    for name, (make, *_) in (FAILING | RENDERED).items():
        data = make()
        if data is not None:
            (site.folder / name).write_bytes(data)
    return [*FAILING, *RENDERED]


def submit(site: Site, csv: Path) -> None:
    variables = {"RENDER_REDIS_URL": site.redis_url, "RENDER_RECONCILE_SECONDS": "1"}
    command = ["submit", csv, "--batch", "b", "--wait", "--output", site.folder / "out"]
    done = forked.run("producer", *command, environment=variables)
    assert done.returncode == 1, done.stderr  # some jobs failed
    assert json.loads(done.stdout)["counts"]["queued"] == 0


def test_bad_pictures_fail_with_a_sentence_and_the_others_are_rendered(site: Site, rows: list[str]) -> None:
    with serving({"/gone.png": reply(404), "/secret.png": reply(403), "/good.png": reply(200, rotated())}) as url:
        urls = [f"{url}/gone.png", f"{url}/secret.png", f"{url}/good.png", "http://localhost:1/private.png"]
        csv = site.folder / "jobs.csv"
        csv.write_text("image,prompt,image_resolution,ddim_steps\n" + "".join(f"{r},p,64,2\n" for r in [*rows, *urls]))
        site.start(REAL, engine_dir="fake:", allow_hosts="127.0.0.1", lease_seconds=10)
        submit(site, csv)
    results = {Path(result.image).name: result for result in site.ledger.results("b")}
    assert len(results) == len(rows) + len(urls) - 1  # two files are called good.png
    for name, (_, kind, words) in FAILING.items():
        expect_failure(results[name], kind, words)
    expect_failure(results["gone.png"], "source_not_found", "404")
    expect_failure(results["secret.png"], "source_forbidden", "403")
    expect_failure(results["private.png"], "source_forbidden", "RENDER_ALLOW_HOSTS")
    for name, (_, words) in RENDERED.items():
        assert results[name].state == "done", results[name]
        assert words in " ".join(results[name].warnings)
    upright = results["rotated.jpg"]
    assert (upright.height or 0) > (upright.width or 0)  # 96x64, turned by the EXIF orientation
    assert site.ledger.counts("b").done == len(RENDERED) + 1


def expect_failure(result: RenderResult, kind: str, words: str) -> None:
    assert (result.state, result.error_kind) == ("failed", kind), result
    assert words in (result.error or "")
