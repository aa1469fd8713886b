"""Shards of training data, drawn by worker processes: pictures of one size, their edges and their captions' tokens."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from captions import dress
from photos import photo_scene
from scenes import Scene, abstract_scene, object_scene, simple_scene
from textures import Size
from tokenizer import fast
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

SQUARE: Size = (256, 256)
# height, width -> share of the shards
BUCKETS: dict[Size, float] = {
    SQUARE: 0.8, (256, 320): 0.05, (320, 256): 0.05, (256, 384): 0.05, (384, 256): 0.05,
}  # fmt: skip
MIXTURE = {simple_scene: 0.35, object_scene: 0.38, abstract_scene: 0.09, photo_scene: 0.18}
HELD_OUT_SEED = 10_000_019  # no training worker ever uses it
Shard = dict[str, torch.Tensor]


def canny(image: np.ndarray, low: int = 100, high: int = 200) -> np.ndarray:
    """cv2.Canny's edges as bool [H, W]; image uint8 RGB [H, W, 3]."""
    return cv2.Canny(image, low, high) > 0


def draw(rng: np.random.Generator, size: Size) -> Scene:
    """One scene of the training mixture."""
    return list(MIXTURE)[int(rng.choice(len(MIXTURE), p=list(MIXTURE.values())))](rng, size)


def held_out(count: int) -> list[Scene]:
    """Scenes of named objects that training never draws; most are 256 by 256."""
    rng = np.random.default_rng(HELD_OUT_SEED)
    sizes = [SQUARE] * 6 + [(256, 320), (320, 256), (256, 384), (384, 256)]
    return [object_scene(rng, sizes[i % len(sizes)]) for i in range(count)]


def _edges(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Edges at the default thresholds or at random ones, of the picture or of what it was before its style."""
    source = scene.plain if rng.random() < 0.35 else scene.image
    if rng.random() < 0.5:
        return canny(source)
    low = int(rng.integers(30, 160))
    return canny(source, low, low + int(rng.integers(40, 160)))


class Shards(IterableDataset):  # type: ignore[type-arg]
    """Endless shards: image uint8 [N, 3, H, W], edges uint8 [N, H*W/8] (packed bits), ids int16 [N, 77]."""

    def __init__(self, tokenizer_folder: Path, *, seed: int, count: int = 32, square_only: bool = False) -> None:
        self.folder, self.seed, self.count, self.square_only = tokenizer_folder, seed, count, square_only

    def __iter__(self) -> Iterator[Shard]:
        cv2.setNumThreads(0)
        torch.set_num_threads(1)
        worker = get_worker_info()
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        tokenizer = fast(self.folder)
        sizes, shares = list(BUCKETS), np.array(list(BUCKETS.values()))
        while True:
            size = SQUARE if self.square_only else sizes[int(rng.choice(len(sizes), p=shares / shares.sum()))]
            scenes = [draw(rng, size) for _ in range(self.count)]
            edges = np.stack([np.packbits(_edges(rng, s).reshape(-1)) for s in scenes])
            ids = np.array([tokenizer.encode(dress(rng, s.caption)).ids for s in scenes], np.int16)
            pictures = np.stack([s.image.transpose(2, 0, 1) for s in scenes])
            yield {"image": torch.from_numpy(pictures), "edges": torch.from_numpy(edges), "ids": torch.from_numpy(ids)}


def loader(shards: Shards, *, workers: int) -> DataLoader:  # type: ignore[type-arg]
    """Worker processes that hand over whole shards."""
    return DataLoader(shards, batch_size=None, num_workers=workers, prefetch_factor=6 if workers else None,
                      pin_memory=torch.cuda.is_available())  # fmt: skip


def unpack(edges: torch.Tensor, size: Size) -> torch.Tensor:
    """Packed bits uint8 [N, H*W/8] to the control image [N, 3, H, W], 0 or 1: bfloat16 on a GPU, else float32."""
    bits = torch.arange(7, -1, -1, device=edges.device, dtype=torch.uint8)
    plane = ((edges[..., None] >> bits) & 1).view(-1, 1, *size)
    return plane.to(torch.bfloat16 if edges.is_cuda else torch.float32).expand(-1, 3, -1, -1)
