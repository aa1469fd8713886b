"""Weights and long prompts, from a job to the encodings and the picture, against independent implementations."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engines.backends.torch.runtime import TorchEngine
from engines.check.score import psnr
from engines.engine_set import EngineSet, load_engine_set
from jobs.errors import PromptTooLong
from jobs.job import EMPTY_PROMPT, RenderJob
from jobs.settings import load_settings
from tests.models import tiny_engine_set, tiny_model
from tests.reference import Reference
from tests.worker.test_prepare import job
from tests.worker.webui_prompts import WebUiPrompts
from worker.image.tokens import Tokenizer
from worker.prepare import full_prompt, prepare
from worker.render.denoiser import EngineDenoiser
from worker.render.encodings import Encodings
from worker.render.loop import RenderLoop
from worker.render.request import ImageSpec
from worker.renderer import load_renderer

LONG = "a painting of a house, two dogs on a beach, " * 6  # 108 tokens of the tiny model's tokenizer
PROMPTS = {
    "plain": "a painting of a house",
    "weights": "a (painting:1.5) of [a house], (((two dogs))), (sky:0.3)",
    "nested": r"a ((house:1.3) and (dogs) [on a (beach:0.5)]:1.2), \(two\)",
    "spaces": "a (painting: 1.5) of (two dogs :0.3 )",
    "negative": "a house, (dogs:-0.5), (sky:0)",
    "long": LONG,
    "long with weights": f"({LONG}:1.2), (a [beach]:0.7)",
    "breaks": "a house BREAK two (dogs:1.4) BREAK BREAK a beach",
    "empty": "",
}


@pytest.fixture(scope="module")
def folder() -> Path:
    return tiny_engine_set("torch", shapes=("64x64",), max_batch=2, context_chunks=8)


@pytest.fixture(scope="module")
def engines(folder: Path) -> Iterator[EngineSet]:
    threads = torch.get_num_threads()
    with load_engine_set(folder, device="cpu", threads=1) as engines:
        clip = engines.engine("clip")
        assert isinstance(clip, TorchEngine)
        give_bias(clip._module)
        yield engines
    torch.set_num_threads(threads)


def give_bias(module: torch.nn.Module) -> None:
    """As trained text encoders have one: random weights give encodings whose mean is zero, and none to restore."""
    (bias,) = (one for name, one in module.named_parameters() if name.endswith("final_layer_norm.bias"))
    with torch.no_grad():
        bias.add_(torch.linspace(-0.5, 0.9, len(bias)))


@pytest.fixture(scope="module")
def encodings(engines: EngineSet) -> Encodings:
    return Encodings(EngineDenoiser(engines))


@pytest.fixture(scope="module")
def tokenizer(engines: EngineSet) -> Tokenizer:
    geometry = engines.geometry
    special = (geometry.bos_token_id, geometry.eos_token_id, geometry.pad_token_id)
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    return Tokenizer(engines.tokenizer_path, length=geometry.context_length, **dict(zip(names, special, strict=True)))


@pytest.fixture(scope="module")
def webui() -> WebUiPrompts:
    prompts = WebUiPrompts(tiny_model() / "model")
    give_bias(prompts.encoder)
    return prompts


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def job_with(prompt: str, n_prompt: str, **parameters: Any) -> RenderJob:
    size = {"image_resolution": 64, "ddim_steps": 3}
    return job(prompt=prompt or EMPTY_PROMPT, a_prompt="", n_prompt=n_prompt, **(size | parameters))


def spec_of(one: RenderJob, tokenizer: Tokenizer) -> ImageSpec:
    (spec,) = prepare(one, picture(), tokenizer=tokenizer, max_pixels=10_000).specs
    return spec


def context_of(one: RenderJob, encodings: Encodings, tokenizer: Tokenizer) -> torch.Tensor:
    (conditioning,) = encodings.encode([spec_of(one, tokenizer)])
    return conditioning.context


@pytest.mark.parametrize("name", PROMPTS)
def test_encodings_are_those_of_the_web_interface(
    name: str, encodings: Encodings, tokenizer: Tokenizer, webui: WebUiPrompts
) -> None:
    """The prompt beside a negative prompt of two chunks, and the other way round."""
    one = job_with(PROMPTS[name], f"{LONG}, (bad:1.4)", prompt_syntax="weighted", long_prompts="chunk")
    swapped = job_with(one.parameters.n_prompt, PROMPTS[name], prompt_syntax="weighted", long_prompts="chunk")
    context = context_of(one, encodings, tokenizer)
    chunks = len(context[0]) // 77
    assert chunks >= 2
    expected = [webui.encode(text, chunks=chunks) for text in (one.parameters.n_prompt, full_prompt(one.parameters))]
    torch.testing.assert_close(context, torch.stack(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(context_of(swapped, encodings, tokenizer), context.flip(0), rtol=0, atol=0)


def test_a_literal_prompt_that_fits_is_encoded_as_ever(
    engines: EngineSet, encodings: Encodings, tokenizer: Tokenizer
) -> None:
    for prompt in ("a (house:1.3)", "", "a [dog] BREAK"):
        context = context_of(job_with(prompt, "dull"), encodings, tokenizer)
        ids = np.stack([tokenizer.encode(text).ids for text in ("dull", prompt)])
        expected = engines.engine("clip")({"input_ids": torch.from_numpy(ids)})["last_hidden_state"]
        torch.testing.assert_close(context, expected, rtol=0, atol=1e-6)
        same = context_of(job_with(prompt, "dull", long_prompts="chunk"), encodings, tokenizer)
        assert torch.equal(same, context)


def test_equal_prompts_with_other_weights_are_told_apart(encodings: Encodings, tokenizer: Tokenizer) -> None:
    specs = [
        spec_of(job_with(prompt, "", prompt_syntax="weighted"), tokenizer)
        for prompt in ("a house", "a (house:1.5)", "a (house:0.5)", "a house")
    ]
    contexts = [one.context for one in encodings.encode(specs)] + [encodings.encode(specs[1:2])[0].context]
    assert torch.equal(contexts[0], contexts[3])
    assert torch.equal(contexts[1], contexts[4])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(contexts[one][1], contexts[other][1])
        assert torch.equal(contexts[one][0], contexts[other][0])


def test_a_picture_of_a_long_prompt_is_that_of_diffusers(
    engines: EngineSet, tokenizer: Tokenizer, webui: WebUiPrompts
) -> None:
    one = job_with(f"({LONG}:1.2)", "dull", prompt_syntax="weighted", long_prompts="chunk", scale=7.0, seed=3)
    spec = spec_of(one, tokenizer)
    loop = RenderLoop(EngineDenoiser(engines))
    future = loop.submit(spec)
    while loop.step():
        pass
    encoded = [webui.encode(text, chunks=spec.chunks) for text in (one.parameters.prompt, "dull")]
    expected = Reference(tiny_model()).render_encoded(spec.edges, *encoded, seed=3, steps=3, scale=7.0)
    assert psnr(future.result(0), expected) >= 50


def test_a_set_with_too_few_chunks_refuses_the_job_with_the_option_to_build_with() -> None:
    """The fault is the worker's, unless no worker could have a set for it."""
    settings = load_settings(engine_dir=str(tiny_engine_set("torch")), device="cpu", threads=1, low_vram=True)
    renderer = load_renderer(settings)
    too_long, impossible = r"make 2 chunks.* built for 1; .* --context-chunks 2", r"make 70 chunks.* takes more than 64"
    faults = []
    try:
        assert renderer.prepare(job_with(LONG, ""), picture()).specs[0].chunks == 1
        for one, sentence in (
            (job_with(LONG, "", long_prompts="chunk"), too_long),
            (job_with("a", LONG, long_prompts="chunk"), too_long),
            (job_with("BREAK " * 70, "", long_prompts="chunk", prompt_syntax="weighted"), impossible),
        ):
            with pytest.raises(PromptTooLong, match=sentence) as refused:
                renderer.prepare(one, picture())
            faults.append((refused.value.fault, refused.value.scope))
    finally:
        renderer.close()
    assert faults == [("worker", "settings"), ("worker", "settings"), ("job", "settings")]


def test_warnings_say_what_was_cut_and_that_nothing_was(tokenizer: Tokenizer) -> None:
    def warnings(**parameters: Any) -> tuple[str, ...]:
        one = job_with(f"({LONG * 2}:1.2)", "", image_resolution=64, **parameters)
        found = prepare(one, picture(), tokenizer=tokenizer, max_pixels=10_000).warnings
        return tuple(warning for warning in found if "edges" not in warning)

    cut, literal = warnings(prompt_syntax="weighted"), warnings(long_prompts="chunk")
    assert len(cut) == 1
    assert cut[0].startswith("prompt is too long for 77 tokens; cut off: ")
    assert len(literal) == 1
    assert "which are taken literally" in literal[0]
    assert warnings(prompt_syntax="weighted", long_prompts="chunk") == ()
