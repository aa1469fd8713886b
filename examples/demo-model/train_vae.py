"""Stage one: the autoencoder, on 256 by 256 pictures."""

from dataclasses import KW_ONLY, dataclass

import torch
from accelerate import Accelerator
from data import SQUARE
from diffusers.models import AutoencoderKL
from models import encode, natural_latents, normalise_latents
from torch.nn.functional import max_pool2d
from training import Clock, Feed, Learner

KL_WEIGHT = 1e-3  # of the mean divergence a latent element: enough to keep latents smooth, too little to blur
GRADIENT_WEIGHT = 0.8
# An edge is what the control is about: pixels near one count this much more. Texture, noise to the model, less.
EDGE_WEIGHT = 4.0
EDGE_CONTRAST = 0.35  # of the range -1..1, between neighbours


def _gradients(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def _edge_weights(target: torch.Tensor) -> torch.Tensor:
    """1, and 1 + EDGE_WEIGHT within two pixels of a strong edge: float [N, 1, H, W]."""
    x, y = _gradients(target.mean(1, keepdim=True))
    strong = torch.zeros_like(target[:, :1])
    strong[..., 1:] = x.abs()
    strong[..., 1:, :] = torch.maximum(strong[..., 1:, :], y.abs())
    return 1 + EDGE_WEIGHT * max_pool2d((strong > EDGE_CONTRAST).to(target.dtype), 5, stride=1, padding=2)


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Absolute error and that of the gradients, so that edges stay edges; both count more near strong ones."""
    weights = _edge_weights(target)
    weights = weights / weights.mean()
    error = (weights * (output - target).abs()).mean() + 0.5 * torch.nn.functional.mse_loss(output, target)
    x, y = zip(_gradients(output), _gradients(target), strict=True)
    slopes = (weights[..., 1:] * (x[0] - x[1]).abs()).mean() + (weights[..., 1:, :] * (y[0] - y[1]).abs()).mean()
    return error + GRADIENT_WEIGHT * slopes


class PictureRing:
    """The newest pictures, on the GPU: uint8 [capacity, 3, 256, 256]."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        self.pictures = torch.empty((capacity, 3, *SQUARE), dtype=torch.uint8, device=device)
        self.seen = 0

    def add(self, pictures: torch.Tensor) -> None:
        at = (self.seen + torch.arange(len(pictures))) % len(self.pictures)
        self.pictures[at.to(self.pictures.device)] = pictures.to(self.pictures.device)
        self.seen += len(pictures)

    def batch(self, size: int) -> torch.Tensor:
        """Random pictures in [-1, 1], half of them mirrored or turned: float32 [size, 3, 256, 256]."""
        count = min(self.seen, len(self.pictures))
        x = self.pictures[torch.randint(count, (size,), device=self.pictures.device)].float() / 127.5 - 1
        third = size // 3
        x = torch.cat([x[:third], x[third : 2 * third].flip(3), x[2 * third :].flip(2)])
        return x.contiguous(memory_format=torch.channels_last)


def _forward(vae: AutoencoderKL, x: torch.Tensor) -> torch.Tensor:
    posterior = vae.encode(x).latent_dist
    output = vae.decode(posterior.sample()).sample.float()
    kl: torch.Tensor = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
    return reconstruction_loss(output, x) + KL_WEIGHT * kl


@dataclass
class VaeTraining:
    """The autoencoder, where its pictures come from, and how many a step."""

    accelerator: Accelerator
    vae: AutoencoderKL
    feed: Feed
    _: KW_ONLY
    batch: int
    compiled: bool

    def run(self, learner: Learner, clock: Clock) -> None:
        """Trains until the clock is over, and leaves the latents normalised."""
        if clock.spent_seconds:
            natural_latents(self.vae)
        ring = PictureRing(40_000 if self.accelerator.device.type == "cuda" else 256, self.accelerator.device)
        forward = torch.compile(_forward) if self.compiled else _forward
        for shard in self.feed.wait(4):
            ring.add(shard["image"])
        while not clock.over:
            for shard in self.feed.ready(4):
                ring.add(shard["image"])
            with self.accelerator.autocast():
                loss = forward(self.vae, ring.batch(self.batch))
            self.accelerator.backward(loss)
            learner.update(loss.detach(), clock, pictures=ring.seen)
        self.feed.stop()
        learner.settle()
        with torch.no_grad():
            moments = torch.cat([encode(self.vae, ring.batch(self.batch)) for _ in range(16)])
        normalise_latents(self.vae, moments)
