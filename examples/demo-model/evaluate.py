"""What the demo model does, in numbers: one JSON line. `python examples/demo-model/evaluate.py`

Builds an onnxruntime engine set from the weights and draws with a worker's own renderer. Pictures are kept in --kept,
so that a run which was stopped goes on where it was, and people can look at them.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from data import canny, held_out
from diffusers.models import AutoencoderKL
from measure import colour_distance, edge_f1, saturation
from palette import colour_name
from product import EngineRenderer
from render import Request
from scenes import Scene
from testset import PROMPTS, TEST_PHOTOGRAPHS, photograph

from engines.check.score import psnr
from engines.engine_set import load_engine_set
from worker.render.denoiser import EngineDenoiser

WEIGHTS = Path(__file__).parent / "weights"
ROOT = Path(__file__).resolve().parents[2]
WORDLESS = "a picture"  # a prompt may not be empty
# Those of scenes and photographs, one by one: for a range of sizes, backends choose other kernels, or build none.
SHAPES = ("256x256", "256x320", "320x256", "256x384", "384x256")
FULL = 8  # pictures in a full batch
COMPARED = 27  # pictures that are compared with another set's, and with themselves drawn alone
FEW = 16  # scenes for what is compared with itself: guidance, guess mode, eta, steps


def build(weights: Path, out: Path, backend: str, precision: str) -> None:
    """An engine set for the sizes of scenes and photographs; skipped if its manifest says that it is up to date."""
    command = ["build", "--model", str(weights / "model"), "--controlnet", str(weights / "controlnet")]
    command += [word for shape in SHAPES for word in ("--shape", shape)]
    command += ["--max-batch", "8", "--backend", backend, "--precision", precision]
    built = subprocess.run(
        [sys.executable, "-m", "engines.cli", *command, "--out", str(out)], cwd=ROOT, check=False, stdout=sys.stderr
    )
    if built.returncode:
        sys.exit(built.returncode)  # it has said why


def mean(values: Sequence[float]) -> float:
    """Rounded for people."""
    return round(float(np.mean(values)), 4)


def f1(requests: list[Request], pictures: list[np.ndarray]) -> float:
    """Mean agreement of pictures' edges with the control's."""
    return mean([edge_f1(p, canny(r.image)) for r, p in zip(requests, pictures, strict=True)])


def colours_right(scenes: list[Scene], pictures: list[np.ndarray]) -> list[bool]:
    """For each named object whose colour its scene's style leaves alone: is it drawn in it?"""
    pairs = zip(scenes, pictures, strict=True)
    return [colour_name(picture, o.mask) == o.colour for scene, picture in pairs for o in scene.objects]


def of_scenes(renderer: EngineRenderer, scenes: list[Scene]) -> dict[str, object]:
    """Edges at strength 1 and 0, and colours."""
    requests = [Request(scene.caption, scene.image, seed=i) for i, scene in enumerate(scenes)]
    drawn = renderer.render(requests)
    free = [r.but(strength=0.0) for r in requests]
    right = colours_right(scenes, drawn)
    return {
        "scenes": len(scenes),
        "edge_f1": f1(requests, drawn),
        "edge_f1_strength_0": f1(free, renderer.render(free)),
        "named_objects": len(right),
        "colour_right": mean(right),
    }


def of_photographs(renderer: EngineRenderer) -> dict[str, object]:
    """Each photograph under its prompts: edges, and how far the pictures are from the first prompt's (CIELAB)."""
    told: dict[str, object] = {}
    for name in TEST_PHOTOGRAPHS:
        requests = [Request(prompt, photograph(name), seed=7) for prompt in PROMPTS[name]]
        drawn = renderer.render(requests)
        told[name] = {
            "edge_f1": f1(requests, drawn),
            "edge_f1_by_prompt": {r.prompt: f1([r], [d]) for r, d in zip(requests, drawn, strict=True)},
            "colour_distance": mean([colour_distance(drawn[0], other) for other in drawn[1:]]),
        }
    return told


def of_parameters(renderer: EngineRenderer, scenes: list[Scene]) -> dict[str, object]:
    """Guidance, guess mode, eta and steps: each compared with the same requests without it."""
    few = [(i, scene) for i, scene in enumerate(scenes) if scene.objects][:FEW]
    chosen = [scene for _, scene in few]
    base = [Request(scene.caption, scene.image, seed=i) for i, scene in few]
    wordless = [r.but(prompt=WORDLESS, scale=4.0) for r in base]

    def draw(requests: list[Request], **changes: object) -> list[np.ndarray]:
        return renderer.render([r.but(**changes) for r in requests])

    usual, unguided, mild = draw(base), draw(base, scale=1.0), draw(base, scale=4.0)
    noisy, ten, fifty = draw(base, eta=1.0), draw(base, steps=10), draw(base, steps=50)

    def distance(a: list[np.ndarray], b: list[np.ndarray]) -> float:
        return mean([colour_distance(x, y) for x, y in zip(a, b, strict=True)])

    return {
        "scenes": len(chosen),
        "guidance": {
            scale: {"colour_right": mean(colours_right(chosen, p)), "saturation": mean([saturation(x) for x in p])}
            for scale, p in (("1", unguided), ("4", mild), ("9", usual))
        },
        "guess_mode": {
            "edge_f1_wordless": f1(wordless, draw(wordless, guess=True)),
            "edge_f1_wordless_strength_0": f1(wordless, draw(wordless, strength=0.0)),
        },
        "eta_1": {"distance_from_eta_0": distance(noisy, usual), "edge_f1": f1(base, noisy), "eta_0": f1(base, usual)},
        "steps": {
            "distance_10_from_50": distance(ten, fifty),
            "distance_20_from_50": distance(usual, fifty),
            "edge_f1": {"10": f1(base, ten), "20": f1(base, usual), "50": f1(base, fifty)},
        },
    }


@torch.inference_mode()
def of_vae(renderer: EngineRenderer, weights: Path, scenes: list[Scene]) -> dict[str, object]:
    """Scenes encoded by diffusers (the product has no encoder) and decoded by the set's decoder."""
    vae = AutoencoderKL.from_pretrained(weights / "model" / "vae").float().eval()
    images = [scene.image for scene in scenes]
    with load_engine_set(renderer.engine_set) as engines:
        denoiser = EngineDenoiser(engines)
        decibels, agreement = [], []
        for image in images:
            x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
            latents = vae.encode(x).latent_dist.mode() * vae.config.scaling_factor
            picture = denoiser.decode(latents.to(engines.device)).pictures()[0]
            assert picture is not None
            decibels.append(psnr(picture, image))
            agreement.append(edge_f1(picture, canny(image)))
    return {"scenes": len(images), "psnr_db": round(float(np.mean(decibels)), 2), "edge_f1": mean(agreement)}


def compared_requests() -> list[Request]:
    """Twelve photographs under their prompts, and scenes, with steps from 10 to 30."""
    photographs = [Request(prompt, photograph(name), seed=7) for name in TEST_PHOTOGRAPHS for prompt in PROMPTS[name]]
    scenes = held_out(COMPARED - len(photographs))
    return photographs + [Request(scene.caption, scene.image, seed=i) for i, scene in enumerate(scenes)]


def decibels(ours: list[np.ndarray], others: list[np.ndarray]) -> dict[str, float]:
    """Mean and least PSNR. Equal pictures count as 99 dB."""
    found = [min(psnr(one, other), 99.0) for one, other in zip(ours, others, strict=True)]
    return {"pictures": len(found), "psnr_db": round(float(np.mean(found)), 2), "least": round(min(found), 2)}


def of_reference(renderer: EngineRenderer, reference: EngineRenderer) -> dict[str, float]:
    """How far the pictures are from those of a reference, float32 on torch."""
    requests = compared_requests()
    return decibels(renderer.render(requests), reference.render(requests))


def of_batches(renderer: EngineRenderer) -> dict[str, float]:
    """Each picture drawn alone, and in a full batch of pictures with other numbers of steps."""
    requests = [r.but(steps=10 + 3 * (i % FULL)) for i, r in enumerate(compared_requests())]
    requests.sort(key=lambda request: request.image.shape)  # a batch has pictures of one size
    return decibels(renderer.fresh(requests), [renderer.fresh([request])[0] for request in requests])


def of_time(renderer: EngineRenderer) -> dict[str, object]:
    """Four pictures of 256 by 256 and 20 steps in one batch, never from the folder of kept ones."""
    image = photograph("coffee")[:, :256]
    requests = [Request(WORDLESS, image, seed=time.time_ns() % 2**31 + i) for i in range(4)]
    wall, cpu = time.perf_counter(), time.process_time()
    renderer.render(requests)
    return {
        "wall_seconds": round((time.perf_counter() - wall) / 4, 3),
        "cpu_seconds": round((time.process_time() - cpu) / 4, 3),
        "load_average": round(os.getloadavg()[0], 1),
        "cores": os.cpu_count(),
    }


def main() -> None:
    """Build the engine set, measure each part, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder with model/ and controlnet/")
    parser.add_argument("--kept", type=Path, default=ROOT / ".demo" / "evaluation", help="pictures and engine set")
    parser.add_argument("--backend", default="onnxruntime", help="onnxruntime, or torch: minutes less on a GPU")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "fp16", "fp8"), help="fp8: triton only")
    parser.add_argument("--only", action="append", help="one part of the output; repeatable")
    options = parser.parse_args()
    engine_set = options.kept / "engine-set"
    options.kept.mkdir(parents=True, exist_ok=True)
    build(options.weights, engine_set, options.backend, options.precision)
    renderer, scenes = EngineRenderer(engine_set, options.kept), held_out(options.scenes)
    parts: dict[str, Callable[[], Mapping[str, object]]] = {
        "seconds_a_picture": lambda: of_time(renderer),
        "photographs": lambda: of_photographs(renderer),
        "scenes": lambda: of_scenes(renderer, scenes),
        "vae": lambda: of_vae(renderer, options.weights, scenes),
        "parameters": lambda: of_parameters(renderer, scenes),
    }
    if options.precision != "fp32":
        reference = options.kept / "reference-set"
        build(options.weights, reference, "torch", "fp32")
        parts["against_float32"] = lambda: of_reference(renderer, EngineRenderer(reference, options.kept))
        parts["alone_and_in_batches"] = lambda: of_batches(renderer)
    for unknown in set(options.only or ()) - parts.keys():
        parser.error(f"--only {unknown}: the parts are {', '.join(parts)}")
    versions = {name: version(name) for name in ("torch", "onnxruntime")}
    line: dict[str, object] = {
        "what": "demo model",
        "backend": options.backend,
        "precision": options.precision,
        "engine_set": renderer.digest,
        "versions": versions,
    }
    for name, part in parts.items():
        if options.only and name not in options.only:
            continue
        line[name] = part()
        print(name, json.dumps(line[name]), file=sys.stderr, flush=True)
    print(json.dumps(line))


if __name__ == "__main__":
    main()
