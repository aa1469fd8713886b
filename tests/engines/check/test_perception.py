"""SSIM and FLIP: numbers that do not come from our own formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import structural_similarity

from engines.check import perception
from engines.check.perception import flip, ssim
from engines.errors import BackendUnavailable
from tests.engines.required import required


def pair(noise: int, size: tuple[int, int] = (40, 52)) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(noise)
    one = random.integers(0, 256, (*size, 3)).astype(np.int16)
    other = (one + random.integers(-noise, noise + 1, one.shape)).clip(0, 255)
    return one.astype(np.uint8), other.astype(np.uint8)


@pytest.mark.parametrize("noise", [1, 20, 200])
@pytest.mark.parametrize("size", [(11, 11), (40, 52)])
def test_ssim_is_that_of_the_paper_as_scikit_image_has_it(noise: int, size: tuple[int, int]) -> None:
    one, other = pair(noise, size)
    expected = structural_similarity(
        one, other, channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert ssim(one, other) == pytest.approx(expected, abs=1e-9)
    assert ssim(one, one) == 1


def test_ssim_needs_a_whole_window() -> None:
    with pytest.raises(ValueError, match="windows of 11x11 pixels; 60x10 is smaller"):
        ssim(*pair(1, (10, 60)))


def test_flip_is_that_of_its_authors_program_for_files(tmp_path: Path) -> None:
    package = required("flip_evaluator")
    one, reference = pair(60)
    for name, picture in (("one.png", one), ("reference.png", reference)):
        Image.fromarray(picture).save(tmp_path / name)
    _, expected, _ = package.evaluate(str(tmp_path / "reference.png"), str(tmp_path / "one.png"), "LDR")
    assert flip(one, reference) == pytest.approx(expected, abs=1e-6)
    assert flip(one, one) == 0
    black, white = np.zeros_like(one), np.full_like(one, 255)
    assert flip(black, white) == pytest.approx(0.9674, abs=1e-4)


def test_without_the_package_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perception, "FLIP_PACKAGE", "no_such_package")
    assert not perception.has_flip()
    with pytest.raises(BackendUnavailable, match=r"pip install 'batch-renderer\[score\]'"):
        flip(*pair(1))
