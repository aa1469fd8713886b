"""Training pairs kept on the GPU: latents, packed edges and caption tokens, by picture size."""

from dataclasses import dataclass

import torch
from data import BUCKETS, Shard, unpack
from diffusers.models import AutoencoderKL
from models import SCALING, encode
from textures import Size


@dataclass(frozen=True)
class Batch:
    """latents float32 [N, 4, h, w] of unit variance; control [N, 3, 8h, 8w]; ids int64 [N, 77]."""

    latents: torch.Tensor
    control: torch.Tensor
    ids: torch.Tensor


class LatentPool:
    """A ring a picture size; a full one forgets its oldest."""

    def __init__(self, vae: AutoencoderKL, capacity: int, device: torch.device) -> None:
        self.vae, self.device, self.seen = vae, device, dict.fromkeys(BUCKETS, 0)
        self.filled = {size: torch.zeros((), device=device) for size in BUCKETS}  # read inside CUDA graphs
        self.stores = {size: self._store(size, max(64, int(capacity * share))) for size, share in BUCKETS.items()}

    def _store(self, size: Size, capacity: int) -> Shard:
        h, w = size[0] // 8, size[1] // 8
        shapes = {
            "moments": ((8, h, w), torch.float16),
            "edges": ((h * w * 8,), torch.uint8),
            "ids": ((77,), torch.int16),
        }
        return {
            name: torch.empty((capacity, *shape), dtype=dtype, device=self.device)
            for name, (shape, dtype) in shapes.items()
        }

    def _moments(self, image: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=image.is_cuda):
            x = (image.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
            return encode(self.vae, x)

    @torch.no_grad()
    def add(self, shard: Shard) -> None:
        """Encodes a shard's pictures and keeps them with their edges and tokens."""
        size: Size = tuple(shard["image"].shape[-2:])  # type: ignore[assignment]
        image = shard["image"].to(self.device, non_blocking=True)
        moments, store = self._moments(image), self.stores[size]
        at = (self.seen[size] + torch.arange(len(image), device=self.device)) % len(store["ids"])
        store["moments"][at] = moments.half()
        for name in ("edges", "ids"):
            store[name][at] = shard[name].to(self.device, non_blocking=True)
        self.seen[size] += len(image)
        self.filled[size].fill_(min(self.seen[size], len(store["ids"])))

    @property
    def total(self) -> int:
        return sum(self.seen.values())

    def batch(self, size: Size, count: int) -> Batch:
        """Random pairs of one size; latents are drawn from the encoder's posterior."""
        store = self.stores[size]
        at = (torch.rand(count, device=self.device) * self.filled[size]).long()
        mean, logvar = store["moments"][at].float().chunk(2, dim=1)
        latents = (mean + torch.randn_like(mean) * (0.5 * logvar.clamp(-30, 20)).exp()) * SCALING
        return Batch(latents, unpack(store["edges"][at], size), store["ids"][at].long())
