"""Stages two and three: U-Net and text encoder, then the ControlNet together with them."""

from dataclasses import dataclass
from typing import Any

import torch
from data import BUCKETS, SQUARE
from diffusers.models import ControlNetModel, UNet2DConditionModel
from pool import Batch, LatentPool
from textures import Size
from training import Clock, Feed, Learner
from transformers import CLIPTextModel

# An error in the noise at level t moves the picture by 1/sqrt(alpha) as much. Errors are weighted by 1/alpha, as if
# velocity were predicted (Salimans and Ho 2022): otherwise colours, settled where noise is strong, hardly weigh at all.
WEIGHT_CAP = 40.0
# The schedule ends with a little signal left, and the colours of a picture and of every large thing in it shine through
# white noise. A network reads them there, never learns to read the words, and then has to start from nothing. Noise
# that is coarse as well hides them: its standard deviation, on each grid of so many cells a side.
COARSE_NOISE, GRIDS = 0.15, (1, 2, 4)
# For the same reason, many of the noisiest inputs show less of the picture than the schedule says, or nothing at all.
NOISY_SHARE, NOISY_FROM, FADED_SHARE, BLIND_SHARE = 0.3, 850, 0.6, 0.6
# Guidance 9 drives latents out of their range; some inputs are exaggerated so that the model learns to come back.
EXAGGERATED_SHARE, EXAGGERATION = 0.25, 0.5
UNCONDITIONAL_SHARE = 0.13
CONTROLLED_SHARE = 0.75  # the rest has strength 0 and stays a plain U-Net


@dataclass
class Denoiser:
    """The networks that learn together, and the tokens that stand for 'no prompt'."""

    text: CLIPTextModel
    unet: UNet2DConditionModel
    controlnet: ControlNetModel | None
    blanks: torch.Tensor  # int64 [2, 77]: the empty prompt and the default negative one
    alphas: torch.Tensor  # float32 [1000]: how much of the picture's variance is left at each timestep

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


def _noise(x: torch.Tensor) -> torch.Tensor:
    """White noise of x's shape, and coarser noise on top."""
    noise, (rows, channels, height, width) = torch.randn_like(x), x.shape
    for grid in GRIDS:
        coarse = torch.randn(rows, channels, grid, grid, device=x.device)
        noise += COARSE_NOISE * torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    return noise


def _gains(t: torch.Tensor) -> torch.Tensor:
    """How much of the picture an input shows, float32 [rows]: mostly 1; more, less or nothing for some."""
    chance, amount = torch.rand(2, len(t), device=t.device)
    exaggerated = torch.where(chance < EXAGGERATED_SHARE, 1 + EXAGGERATION * amount, 1.0)
    faded = torch.where(amount < BLIND_SHARE, 0.0, (amount - BLIND_SHARE) / (1 - BLIND_SHARE))
    return torch.where((t >= NOISY_FROM) & (chance > 1 - FADED_SHARE), faded, exaggerated)


def _strengths(rows: int, device: torch.device) -> torch.Tensor:
    """Control scales float32 [rows, 13]: mostly 1, some other strengths, some guess mode's falling ones."""
    kind = torch.rand(rows, 1, device=device)
    guess = 0.825 ** torch.arange(12, -1, -1, device=device, dtype=torch.float32)
    other = torch.rand(rows, 1, device=device) * 1.4 + 0.2
    return torch.where(kind < 0.68, 1.0, torch.where(kind < 0.85, other, guess))


def _predicted(model: Denoiser, noisy: torch.Tensor, t: torch.Tensor, *, batch: Batch) -> torch.Tensor:
    """The predicted noise, float32; the first rows are controlled, each with its own strengths, the rest are not."""
    context = model.text(_undescribed(batch.ids, model.blanks)).last_hidden_state
    predicted: torch.Tensor
    if model.controlnet is None:
        predicted = model.unet(noisy, t, context).sample
        return predicted.float()
    rows = int(len(noisy) * CONTROLLED_SHARE)
    down, middle = model.controlnet(noisy[:rows], t[:rows], context[:rows], batch.control[:rows], return_dict=False)
    scales, rest, scaled = _strengths(rows, noisy.device), len(noisy) - rows, []
    for i, residual in enumerate([*down, middle]):
        r = residual * scales[:, i, None, None, None].to(residual.dtype)
        scaled.append(torch.cat([r, r.new_zeros(rest, *r.shape[1:])]))
    extra = {"down_block_additional_residuals": scaled[:-1], "mid_block_additional_residual": scaled[-1]}
    predicted = model.unet(noisy, t, context, **extra).sample
    return predicted.float()


def denoising_loss(model: Denoiser, batch: Batch) -> torch.Tensor:
    """Weighted error of the predicted noise."""
    x = batch.latents
    t = _timesteps(len(x), x.device)
    gain, alpha = _gains(t), model.alphas[t]
    a = alpha.view(-1, 1, 1, 1)
    noisy = a.sqrt() * x * gain.view(-1, 1, 1, 1) + (1 - a).sqrt() * _noise(x)
    target = (noisy - a.sqrt() * x) / (1 - a).sqrt()
    error = _predicted(model, noisy.contiguous(memory_format=torch.channels_last), t, batch=batch) - target
    # An exaggerated input asks for a correction far larger than noise where noise is small: weigh it down.
    weight = (1 / alpha).clamp(max=WEIGHT_CAP) * torch.where(gain > 1, 0.3, 1.0)
    return (weight * (error**2).mean((1, 2, 3))).mean()


class Descent:
    """Loss and gradients of a random batch of one picture size. On a GPU all of it is one CUDA graph: launching some
    five thousand small kernels one by one takes longer than running them."""

    memory: Any = None

    def __init__(self, model: Denoiser, pool: LatentPool, size: Size, count: int) -> None:
        self.model, self.pool, self.size, self.count = model, pool, size, count
        self.parameters = [p for m in model.modules() for p in m.parameters() if p.requires_grad]
        self.graph: torch.cuda.CUDAGraph | None = None
        if pool.device.type == "cuda":
            self._capture()

    def _run(self) -> torch.Tensor:
        for parameter in self.parameters:
            parameter.grad = None
        kind = self.pool.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda", cache_enabled=False):
            loss = denoising_loss(self.model, self.pool.batch(self.size, self.count))
        loss.backward()
        return loss.detach()

    def _capture(self) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # cuDNN chooses its algorithms
                self._run()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        # All sizes share one pool: gradients are used up before the next graph is replayed. Other threads pin memory.
        Descent.memory = Descent.memory or torch.cuda.graph_pool_handle()
        with torch.cuda.graph(self.graph, pool=Descent.memory, capture_error_mode="thread_local"):
            self.loss = self._run()
        self.gradients = [p.grad for p in self.parameters]

    def __call__(self) -> torch.Tensor:
        """The loss, a scalar; every parameter's gradient is in its place."""
        if self.graph is None:
            return self._run()
        self.graph.replay()
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        return self.loss


def train_denoiser(
    model: Denoiser, pool: LatentPool, feed: Feed, *, learner: Learner, clock: Clock, batch: int
) -> None:
    """Trains until the clock is over; each step has pictures of one size, fewer of larger ones."""
    shares = torch.tensor(list(BUCKETS.values()))
    descents: dict[Size, Descent] = {}
    while not clock.over:
        for shard in feed.ready(1):
            pool.add(shard)
        size = list(BUCKETS)[int(torch.multinomial(shares, 1))]
        if not pool.seen[size]:
            continue
        if size not in descents:
            count = max(4, batch * SQUARE[0] * SQUARE[1] // (size[0] * size[1]) // 4 * 4)
            descents[size] = Descent(model, pool, size, count)
        learner.update(descents[size](), clock, pictures=pool.total)
    learner.settle()
