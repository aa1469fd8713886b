"""InceptionV3 as FID uses it: a picture -> 2048 features. The lineage's PD score is a distance of such features.

PD ("perceptual distance") is that of the TensorRT port's compute_score: the Euclidean distance of two pictures'
features, from pytorch-fid's network with FID's weights (pt_inception-2015-12-05-6726825d.pth). The network is Szegedy
et al., "Rethinking the Inception Architecture for Computer Vision", 2015, as TensorFlow trained it: it differs from
torchvision's in its average pools, which leave the padding out, and in the last block, which takes a maximum.

The network is a function of the file's tensors: their shapes say how wide each convolution is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from engines.errors import ModelRefused
from engines.model.tensor_files import read_tensors

SIDE = 299  # pixels: what the network was trained on
FEATURES = 2048
CLASSES_OF_FID = 1008  # torchvision's network has 1000, and other features
EPSILON = 0.001  # of its batch normalisation
LEFT_OUT = ("AuxLogits.", "fc.")
WANTED = "--inception takes the weights of FID, as pytorch-fid downloads them (pt_inception-2015-12-05-6726825d.pth)"


class Inception:
    """The network with one file's weights, float32, on the CPU: a GPU's convolutions would round the features."""

    def __init__(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        self._path = path
        self._tensors = {name: tensor.to(torch.float32) for name, tensor in tensors.items()}

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file of weights, and try it with a grey picture.

        Raises:
            ModelRefused: it cannot be read, or holds another network.
        """
        classes = read_tensors(path, lambda name: name == "fc.weight").get("fc.weight")
        if classes is not None and len(classes) != CLASSES_OF_FID:
            raise ModelRefused(f"{path} has an InceptionV3 of {len(classes)} classes, and so other features; {WANTED}")
        network = cls(read_tensors(path, lambda name: not name.startswith(LEFT_OUT)), path)
        try:
            shape = network.features(np.full((SIDE, SIDE, 3), 128, np.uint8)).shape
        except RuntimeError as error:  # torch's, for tensors that do not fit each other
            raise ModelRefused(f"{path} is not an InceptionV3 of this kind ({error}); {WANTED}") from error
        if shape != (FEATURES,):
            raise ModelRefused(f"{path} has {shape[0]} features, not {FEATURES}; {WANTED}")
        return network

    @torch.inference_mode()
    def features(self, picture: np.ndarray) -> np.ndarray:
        """A picture, uint8 [H, W, 3] -> its features, float32 [2048].

        Raises:
            ModelRefused: a tensor is missing.
        """
        x = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 255
        x = 2 * F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False) - 1
        pooled = self._blocks(self._stem(x)).mean(dim=(2, 3))[0]
        features: np.ndarray = pooled.numpy()
        return features

    def _stem(self, x: Tensor) -> Tensor:
        x = self._conv("Conv2d_1a_3x3", x, stride=2, padded=False)
        x = self._conv("Conv2d_2a_3x3", x, padded=False)
        x = F.max_pool2d(self._conv("Conv2d_2b_3x3", x), 3, stride=2)
        x = self._conv("Conv2d_4a_3x3", self._conv("Conv2d_3b_1x1", x), padded=False)
        return F.max_pool2d(x, 3, stride=2)

    def _blocks(self, x: Tensor) -> Tensor:
        for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            x = self._wide(name, x)
        x = self._smaller(x)
        for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            x = self._crossed(name, x)
        x = self._smallest(x)
        x = self._split("Mixed_7b", x, _average(x))
        return self._split("Mixed_7c", x, F.max_pool2d(x, 3, stride=1, padding=1))

    def _wide(self, block: str, x: Tensor) -> Tensor:
        return torch.cat(
            [
                self._chain(block, x, "branch1x1"),
                self._chain(block, x, "branch5x5_1", "branch5x5_2"),
                self._chain(block, x, "branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
                self._chain(block, _average(x), "branch_pool"),
            ],
            1,
        )

    def _smaller(self, x: Tensor) -> Tensor:
        double = self._chain("Mixed_6a", x, "branch3x3dbl_1", "branch3x3dbl_2")
        return torch.cat(
            [
                self._conv("Mixed_6a.branch3x3", x, stride=2, padded=False),
                self._conv("Mixed_6a.branch3x3dbl_3", double, stride=2, padded=False),
                F.max_pool2d(x, 3, stride=2),
            ],
            1,
        )

    def _crossed(self, block: str, x: Tensor) -> Tensor:
        return torch.cat(
            [
                self._chain(block, x, "branch1x1"),
                self._chain(block, x, *(f"branch7x7_{n}" for n in range(1, 4))),
                self._chain(block, x, *(f"branch7x7dbl_{n}" for n in range(1, 6))),
                self._chain(block, _average(x), "branch_pool"),
            ],
            1,
        )

    def _smallest(self, x: Tensor) -> Tensor:
        single = self._chain("Mixed_7a", x, "branch3x3_1")
        crossed = self._chain("Mixed_7a", x, "branch7x7x3_1", "branch7x7x3_2", "branch7x7x3_3")
        return torch.cat(
            [
                self._conv("Mixed_7a.branch3x3_2", single, stride=2, padded=False),
                self._conv("Mixed_7a.branch7x7x3_4", crossed, stride=2, padded=False),
                F.max_pool2d(x, 3, stride=2),
            ],
            1,
        )

    def _split(self, block: str, x: Tensor, pooled: Tensor) -> Tensor:
        single = self._chain(block, x, "branch3x3_1")
        double = self._chain(block, x, "branch3x3dbl_1", "branch3x3dbl_2")
        return torch.cat(
            [
                self._chain(block, x, "branch1x1"),
                self._chain(block, single, "branch3x3_2a"),
                self._chain(block, single, "branch3x3_2b"),
                self._chain(block, double, "branch3x3dbl_3a"),
                self._chain(block, double, "branch3x3dbl_3b"),
                self._chain(block, pooled, "branch_pool"),
            ],
            1,
        )

    def _chain(self, block: str, x: Tensor, *names: str) -> Tensor:
        for name in names:
            x = self._conv(f"{block}.{name}", x)
        return x

    def _conv(self, name: str, x: Tensor, *, stride: int = 1, padded: bool = True) -> Tensor:
        """A convolution (padded so that the size stays), its batch normalisation, and ReLU."""
        weight = self._tensor(f"{name}.conv.weight")
        padding = tuple(side // 2 if padded else 0 for side in weight.shape[2:])
        x = F.conv2d(x, weight, stride=stride, padding=padding)
        mean, variance, scale, shift = (
            self._tensor(f"{name}.bn.{part}") for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.relu(F.batch_norm(x, mean, variance, scale, shift, eps=EPSILON))

    def _tensor(self, name: str) -> Tensor:
        try:
            return self._tensors[name]
        except KeyError as error:
            raise ModelRefused(f"{self._path} has no tensor {name!r}; {WANTED}") from error


def perceptual_distance(one: np.ndarray, other: np.ndarray) -> float:
    """PD of two pictures by their features, float32 [2048]: 0 for equal ones; the lineage accepted up to 12."""
    return float(np.linalg.norm(one.astype(np.float64) - other.astype(np.float64)))


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
