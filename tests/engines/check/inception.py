"""Random weights for FID's InceptionV3, by a recipe that pytorch-fid was given, too."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

SHAPES = Path(__file__).with_name("inception_shapes.json")  # of pytorch-fid's network: one a convolution, in its order


@cache
def random_weights() -> dict[str, Tensor]:
    """Tensors by their names in FID's file: convolutions that keep the values' spread, and plain normalisation."""
    random = np.random.default_rng(5)
    tensors = {}
    for name, shape in json.loads(SHAPES.read_text()).items():
        spread = np.float32((2 / (shape[1] * shape[2] * shape[3])) ** 0.5)
        tensors[f"{name}.conv.weight"] = random.standard_normal(shape, dtype=np.float32) * spread
        for part, low, high in (("weight", 0.8, 1.2), ("bias", -0.1, 0.1), ("running_mean", -0.1, 0.1)):
            tensors[f"{name}.bn.{part}"] = random.uniform(low, high, shape[0]).astype(np.float32)
        tensors[f"{name}.bn.running_var"] = random.uniform(0.8, 1.2, shape[0]).astype(np.float32)
    return {name: torch.from_numpy(array) for name, array in tensors.items()}


def picture(seed: int) -> np.ndarray:
    """Squares of random colours: uint8 [160, 120, 3]."""
    small = np.random.default_rng(seed).integers(0, 256, (8, 6, 3)).astype(np.uint8)
    return np.repeat(np.repeat(small, 20, 0), 20, 1)
