"""PD: the features of FID's InceptionV3, equal to pytorch-fid's for the same weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engines.check.inception import Inception, perceptual_distance
from engines.errors import ModelRefused
from tests.engines.check.inception import picture, random_weights

# Every 128th feature of picture(0), and the distance to those of picture(1), as pytorch-fid 0.3.0 computes them
# (InceptionV3([3]) of torchvision 0.29.1 and torch 2.13 on a CPU, with random_weights()).
FEATURES = [1.4368, 0.52285, 2.67143, 0.07454, 2.68673, 0.27229, 0.04105, 1.31715,
            0.24295, 0.0, 0.21226, 0.09355, 0.81536, 0.89594, 2.05332, 0.4497]  # fmt: skip
DISTANCE = 2.47121


def test_features_are_those_of_pytorch_fid() -> None:
    network = Inception(random_weights(), Path("weights.pth"))
    first, second = network.features(picture(0)), network.features(picture(1))
    assert first.shape == (2048,)
    assert first.dtype == np.float32
    assert first[::128].tolist() == pytest.approx(FEATURES, abs=2e-4)
    assert perceptual_distance(first, second) == pytest.approx(DISTANCE, abs=1e-3)
    assert perceptual_distance(first, first) == 0


def test_another_file_of_weights_is_refused_before_anything_is_rendered(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"fc.weight": torch.zeros(1000, 8)}, path)
    with pytest.raises(ModelRefused, match=r"an InceptionV3 of 1000 classes, .*pt_inception-2015-12-05"):
        Inception.load(path)
    torch.save({"some.weight": torch.zeros(3)}, path)
    with pytest.raises(ModelRefused, match=r"has no tensor 'Conv2d_1a_3x3.conv.weight'; --inception takes"):
        Inception.load(path)
    torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(3)}, path)
    with pytest.raises(ModelRefused, match=r"Conv2d_1a_3x3|is not an InceptionV3 of this kind"):
        Inception.load(path)
    path.write_bytes(b"no weights")
    with pytest.raises(ModelRefused, match=r"weights\.pth"):
        Inception.load(path)
    with pytest.raises(ModelRefused, match=r"none\.pth"):
        Inception.load(tmp_path / "none.pth")
