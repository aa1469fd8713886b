"""Stages two and three: U-Net and text encoder, then the ControlNet together with them."""

from dataclasses import dataclass

import torch
from data import BUCKETS, SQUARE
from diffusers import ControlNetModel, DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from pool import Batch, LatentPool
from textures import Size
from training import Clock, Feed, Learner
from transformers import CLIPTextModel

SNR_CAP = 5.0  # min-SNR weighting
# The schedule ends with a little signal left, and a whole picture's mean colour shines through white noise. Noise with
# a mean of its own hides it, so that colour comes from the words, as it must when sampling starts from nothing.
NOISE_OFFSET = 0.12
# Guidance 9 drives latents out of their range; some inputs are exaggerated so that the model learns to come back.
EXAGGERATED_SHARE, EXAGGERATION = 0.25, 0.5
# What has which colour is settled early in sampling, where noise is strong: more of the steps are trained there.
NOISY_SHARE, NOISY_FROM = 0.35, 400
UNCONDITIONAL_SHARE = 0.13
CONTROLLED_SHARE = 0.75  # the rest has strength 0 and stays a plain U-Net


@dataclass
class Denoiser:
    """The networks that learn together, and the tokens that stand for 'no prompt'."""

    text: CLIPTextModel
    unet: UNet2DConditionModel
    controlnet: ControlNetModel | None
    blanks: torch.Tensor  # int64 [2, 77]: the empty prompt and the default negative one
    schedule: DDPMScheduler
    compiled: bool = False

    def modules(self) -> list[torch.nn.Module]:
        return [self.text, self.unet] + ([self.controlnet] if self.controlnet is not None else [])


def _undescribed(ids: torch.Tensor, blanks: torch.Tensor) -> torch.Tensor:
    """Some captions replaced by a blank prompt."""
    drop = torch.rand(len(ids), 1, device=ids.device) < UNCONDITIONAL_SHARE
    return torch.where(drop, blanks[torch.randint(len(blanks), (len(ids),), device=ids.device)], ids)


def _timesteps(rows: int, device: torch.device) -> torch.Tensor:
    """int64 [rows], 0..999."""
    low = torch.where(torch.rand(rows, device=device) < NOISY_SHARE, NOISY_FROM, 0)
    return low + (torch.rand(rows, device=device) * (1000 - low)).long()


def _strengths(rows: int, device: torch.device) -> torch.Tensor:
    """Control scales float32 [rows, 13]: mostly 1, some other strengths, some guess mode's falling ones."""
    kind = torch.rand(rows, 1, device=device)
    guess = 0.825 ** torch.arange(12, -1, -1, device=device, dtype=torch.float32)
    other = torch.rand(rows, 1, device=device) * 1.4 + 0.2
    return torch.where(kind < 0.68, 1.0, torch.where(kind < 0.85, other, guess))


def _residuals(
    controlnet: ControlNetModel, noisy: torch.Tensor, t: torch.Tensor, *, context: torch.Tensor, control: torch.Tensor
):
    """The thirteen residuals for the first rows, scaled a row at a time, and zeros for the uncontrolled rest."""
    rows = int(len(noisy) * CONTROLLED_SHARE)
    down, middle = controlnet(noisy[:rows], t[:rows], context[:rows], control[:rows], return_dict=False)
    scales, rest = _strengths(rows, noisy.device), len(noisy) - rows
    scaled = []
    for i, residual in enumerate([*down, middle]):
        r = residual * scales[:, i, None, None, None].to(residual.dtype)
        scaled.append(torch.cat([r, r.new_zeros(rest, *r.shape[1:])]))
    return scaled[:-1], scaled[-1]


def denoising_loss(
    model: Denoiser, batch: Batch, networks: tuple[torch.nn.Module, torch.nn.Module | None]
) -> torch.Tensor:
    """Weighted error of the predicted noise; networks are the U-Net and ControlNet to call (compiled or not)."""
    unet, controlnet = networks
    x, rows, device = batch.latents, len(batch.latents), batch.latents.device
    noise = torch.randn_like(x) + NOISE_OFFSET * torch.randn(rows, 4, 1, 1, device=device)
    t = _timesteps(rows, device)
    alpha = model.schedule.alphas_cumprod.to(device)[t].view(-1, 1, 1, 1)
    gain = 1 + EXAGGERATION * torch.rand(rows, 1, 1, 1, device=device) * (
        torch.rand(rows, 1, 1, 1, device=device) < EXAGGERATED_SHARE
    )
    noisy = alpha.sqrt() * x * gain + (1 - alpha).sqrt() * noise
    target = (noisy - alpha.sqrt() * x) / (1 - alpha).sqrt()
    noisy = noisy.contiguous(memory_format=torch.channels_last)
    context = model.text(_undescribed(batch.ids, model.blanks)).last_hidden_state
    extra = {}
    if controlnet is not None:
        down, middle = _residuals(controlnet, noisy, t, context=context, control=batch.control)
        extra = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
    predicted = unet(noisy, t, context, **extra).sample.float()
    snr = compute_snr(model.schedule, t)
    weight = snr.clamp(max=SNR_CAP) / snr
    # An exaggerated input asks for a correction far larger than noise where noise is small: weigh it down.
    weight = weight * torch.where(gain.view(-1) > 1, 0.3, 1.0)
    return (weight * ((predicted - target) ** 2).mean((1, 2, 3))).mean()


class Sizes:
    """Draws the picture size of each step; the batch shrinks as pictures grow."""

    def __init__(self, pool: LatentPool, square_batch: int) -> None:
        self.pool, self.square_batch = pool, square_batch
        self.shares = torch.tensor(list(BUCKETS.values()))

    def draw(self) -> tuple[Size, int]:
        while True:
            size = list(BUCKETS)[int(torch.multinomial(self.shares, 1))]
            if self.pool.seen[size] > 0:
                return size, max(4, self.square_batch * SQUARE[0] * SQUARE[1] // (size[0] * size[1]) // 4 * 4)


def train_denoiser(
    model: Denoiser, pool: LatentPool, feed: Feed, *, learner: Learner, clock: Clock, batch: int
) -> None:
    """Trains until the clock is over; new pictures join the pool as they arrive."""
    plain = (model.unet, model.controlnet)
    fast = tuple(m and torch.compile(m) for m in plain) if model.compiled else plain
    sizes = Sizes(pool, batch)
    while not clock.over:
        with learner.accelerator.autocast():
            for shard in feed.ready(3):
                pool.add(shard)
            size, count = sizes.draw()
            loss = denoising_loss(model, pool.batch(size, count), fast if size == SQUARE else plain)
        learner.update(loss, clock, pictures=pool.total)
    learner.settle()
