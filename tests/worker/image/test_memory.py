"""Many large pictures at once: the memory of a process that prepares them, measured by the operating system."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools import ROOT

SIDE = 3500  # so that pictures and arrays exceed 32 MiB: malloc may keep the memory of smaller ones for the next
PICTURES = 4
MODES = ("RGBA", "RGB")
MEGAPIXELS = SIDE * SIDE / 1e6

# Prepares each picture in several threads at once, and prints by how many MiB the peak grew. A small one warms up.
SCRIPT = f"""
import json, sys, threading
from pathlib import Path
from tests.jobs.rows import make_job
from worker.fake import FakeTokenizer
from worker.heap import bound_heap
from worker.image.decode_budget import DecodeBudget
from worker.prepare import prepare

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024

bound_heap()
budget = DecodeBudget({SIDE * SIDE})
ended = []

def run(path):
    data = Path(path).read_bytes()
    prepared = prepare(make_job(image_resolution=64), data, tokenizer=FakeTokenizer(), max_pixels=10**8, budget=budget)
    ended.append(prepared.width)

run(sys.argv[1])
before = peak()
for path in sys.argv[2:]:
    threads = [threading.Thread(target=run, args=[path]) for _ in range({PICTURES})]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
print(json.dumps([len(ended), peak() - before]))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_pictures_that_come_together_take_the_memory_of_one(tmp_path: Path) -> None:
    """One takes 4 bytes a pixel in Pillow, up to 4 as an array and 3 without alpha."""
    paths = [tmp_path / f"{number}.png" for number in range(len(MODES) + 1)]
    picture("RGB", 64).save(paths[0])
    for mode, path in zip(MODES, paths[1:], strict=True):
        picture(mode, SIDE).save(path, compress_level=1)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, paths)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    ended, grown = json.loads(done.stdout)
    assert ended == 1 + len(MODES) * PICTURES
    assert grown < 20 * MEGAPIXELS  # MiB: of four pictures at once it would be 32 at least


def picture(mode: str, side: int) -> Image.Image:
    """Stripes, with every alpha."""
    ramp = np.arange(side * side, dtype=np.uint32).reshape(side, side)
    image = Image.fromarray(np.stack([ramp >> shift for shift in (4, 8, 12, 14)], axis=2).astype(np.uint8))
    return image.convert(mode)
