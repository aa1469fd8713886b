"""Trains the demo model: tokenizer, VAE, U-Net with text encoder, ControlNet. One GPU, seconds as the budget.

Runs again on the same --out to go on where a time box (--box-seconds) stopped it.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import tokenizer as vocabulary
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from captions import NEGATIVE
from data import Shards
from diffusers.models import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from models import make_controlnet, make_scheduler, make_text_encoder, make_unet, make_vae, save
from pool import LatentPool
from train_denoiser import Denoiser, train_denoiser
from train_vae import VaeTraining
from training import Clock, Curve, Feed, Learner
from transformers import CLIPTextModel, CLIPTokenizer

STAGES = ("vae", "unet", "control")
CURVES = {
    "vae": Curve(1.5e-3, fall_from=0.4),
    "unet": Curve(1e-3, fall_from=1.0),
    "control": Curve(6e-4, fall_from=0.3),
}


class Run:
    """One training in one folder: weights, progress.json, log.jsonl."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.out = options, Path(options.out)
        self.deadline = time.monotonic() + options.box_seconds
        self.out.mkdir(parents=True, exist_ok=True)
        self.accelerator = Accelerator(
            mixed_precision="bf16" if torch.cuda.is_available() else "no", cpu=not torch.cuda.is_available()
        )
        self.progress_file = self.out / "progress.json"
        self.spent: dict[str, float] = json.loads(self.progress_file.read_text()) if self.progress_file.exists() else {}
        set_seed(options.seed + int(sum(self.spent.values())))
        scheduler: Any = make_scheduler()
        self.alphas: torch.Tensor = scheduler.alphas_cumprod.to(self.accelerator.device)
        self.tokenizer = self._tokenizer()
        self.networks = self._networks()

    def _tokenizer(self) -> CLIPTokenizer:
        folder = self.out / "model" / "tokenizer"
        if not folder.exists():
            vocabulary.build(folder)
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder)
        return tokenizer

    def _networks(self) -> dict[str, Any]:
        model = self.out / "model"
        networks: dict[str, Any]
        if not self.spent:
            networks = {"vae": make_vae(), "text_encoder": make_text_encoder(self.tokenizer), "unet": make_unet()}
        else:
            networks = {
                "vae": AutoencoderKL.from_pretrained(model / "vae"),
                "text_encoder": make_text_encoder(self.tokenizer),
                "unet": make_unet(),
            }
        if self.spent.get("unet"):
            networks["text_encoder"] = CLIPTextModel.from_pretrained(model / "text_encoder", dtype=torch.float32)
            networks["unet"] = UNet2DConditionModel.from_pretrained(model / "unet")
        begun = self.spent.get("control", 0) > 0
        networks["controlnet"] = (
            ControlNetModel.from_pretrained(self.out / "controlnet") if begun else make_controlnet(networks["unet"])
        )
        return {
            name: m.float().to(self.accelerator.device, memory_format=torch.channels_last)
            for name, m in networks.items()
        }

    def clock(self, stage: str) -> Clock:
        return Clock(getattr(self.options, f"{stage}_seconds"), self.deadline, self.spent.get(stage, 0.0))

    def shards(self, *, square_only: bool = False) -> Shards:
        seed = self.options.seed + int(sum(self.spent.values()))
        return Shards(self.out / "model" / "tokenizer", seed=seed, count=self.options.shard, square_only=square_only)

    def learner(self, stage: str, modules: list[torch.nn.Module]) -> Learner:
        return Learner(self.accelerator, modules, curve=CURVES[stage], log=self.out / "log.jsonl", stage=stage)

    def keep(self, stage: str, clock: Clock) -> None:
        """Notes the time spent and writes the weights."""
        self.spent[stage] = clock.elapsed_seconds
        save(self.out, tokenizer=self.tokenizer, **self.networks)
        for network in self.networks.values():
            network.float()
        self.progress_file.write_text(json.dumps(self.spent))
        print(json.dumps({"stage": stage, "spent_seconds": round(clock.elapsed_seconds, 1)}), flush=True)

    def vae(self) -> None:
        clock = self.clock("vae")
        if clock.over:
            return
        vae = self.networks["vae"]
        learner = self.learner("vae", [vae])
        feed = Feed(self.shards(square_only=True), workers=self.options.workers)
        training = VaeTraining(self.accelerator, vae, feed, batch=self.options.vae_batch, compiled=self.options.compile)
        training.run(learner, clock)
        self.keep("vae", clock)

    def denoiser(self) -> None:
        if all(self.clock(stage).over for stage in STAGES[1:]):
            return
        n, device = self.networks, self.accelerator.device
        n["vae"].requires_grad_(False)
        pool = LatentPool(n["vae"], self.options.pool, device)
        feed = Feed(self.shards(), workers=self.options.workers)
        for shard in feed.wait(self.options.workers * 2):
            pool.add(shard)
        blanks = self.tokenizer(["", NEGATIVE], padding="max_length", max_length=77, return_tensors="pt")[
            "input_ids"
        ].to(device)
        for stage in STAGES[1:]:
            if (clock := self.clock(stage)).over:
                continue
            if stage == "control" and not self.spent.get("control"):
                n["controlnet"] = make_controlnet(n["unet"]).to(device, memory_format=torch.channels_last)
            model = Denoiser(
                n["text_encoder"],
                n["unet"],
                n["controlnet"] if stage == "control" else None,
                blanks,
                self.alphas,
            )
            learner = self.learner(stage, model.modules())
            train_denoiser(model, pool, feed, learner=learner, clock=clock, batch=self.options.batch)
            self.keep(stage, clock)
        feed.stop()


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", default="demo-model-weights")
    parser.add_argument("--vae-seconds", type=float, default=500)
    parser.add_argument("--unet-seconds", type=float, default=500)
    parser.add_argument("--control-seconds", type=float, default=2000)
    parser.add_argument("--box-seconds", type=float, default=1e9, help="stop after this long, with everything written")
    parser.add_argument("--batch", type=int, default=256, help="256x256 pictures a denoiser step")
    parser.add_argument("--vae-batch", type=int, default=64)
    parser.add_argument("--pool", type=int, default=400_000, help="pictures kept as latents")
    parser.add_argument("--workers", type=int, default=12, help="processes that draw pictures")
    parser.add_argument("--shard", type=int, default=64, help="pictures a worker hands over at a time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    return parser.parse_args()


def main() -> None:
    """Train until the time box ends; a later run goes on."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    run = Run(options())
    run.vae()
    run.denoiser()


if __name__ == "__main__":
    main()
