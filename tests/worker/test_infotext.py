"""What a picture says of how it was made, read as web interfaces read it."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from engines.manifest import load_manifest
from engines.source import AddedFile, Source
from jobs.job import EMPTY_PROMPT, RenderJob
from jobs.settings import load_settings
from producer.picture_texts import texts_of
from tests.models import tiny_engine_set, tiny_model
from tests.worker.test_prepare import job, prepared
from tests.worker.webui import read_infotext, read_unit
from worker.infotext import ModelLabel, encode_sample, infotext, short_name
from worker.renderer import load_renderer

LABEL = ModelLabel("dreamshaper_8", "control_v11p_sd15_canny", "0123456789abcdef" * 4)


def chunks(data: bytes) -> dict[str, str]:
    with Image.open(io.BytesIO(data)) as image:
        assert isinstance(image, PngImagePlugin.PngImageFile)
        return dict(image.text)


def written(one: RenderJob, label: ModelLabel = LABEL) -> str:
    return infotext(one, seed=6, width=192, height=128, label=label)


def read(one: RenderJob, label: ModelLabel = LABEL) -> dict[str, str]:
    return read_infotext(written(one, label))


def unit(one: RenderJob, label: ModelLabel = LABEL) -> dict[str, bool | float | str]:
    return read_unit(read(one, label)["ControlNet 0"])


def test_a_sample_s_png_says_how_it_was_made() -> None:
    one = job(num_samples=2, guess_mode=True, strength=0.8, eta=0.5)
    pixels = np.random.default_rng(0).integers(0, 255, (128, 192, 3), dtype=np.uint8)
    data = encode_sample(one, prepared(one), 1, pixels, label=LABEL)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels)
    machine = json.loads(chunks(data)["render"])
    assert machine == one.parameters.model_dump() | {"job": one.id, "seed": 6}
    prompt, negative, settings = chunks(data)["parameters"].split("\n")
    assert prompt == "a house, best quality, extremely detailed"
    assert negative.startswith("Negative prompt: longbody")
    assert settings == (
        "Steps: 20, Sampler: DDIM, CFG scale: 9, Seed: 6, Size: 192x128, Model hash: 0123456789, Model: dreamshaper_8, "
        'RNG: CPU, ControlNet 0: "Module: canny, Model: control_v11p_sd15_canny, Weight: 0.8, '
        "Resize Mode: Just Resize, Processor Res: 128, Threshold A: 100, Threshold B: 200, "
        "Guidance Start: 0, Guidance End: 1, Pixel Perfect: False, "
        'Control Mode: ControlNet is more important", Eta DDIM: 0.5'
    )


def test_web_interfaces_read_every_setting_back() -> None:
    one = job(guess_mode=False, strength=1.25, eta=0.5, scale=7.123456789012, ddim_steps=31, low_threshold=0)
    settings = read(one)
    unit = read_unit(settings.pop("ControlNet 0"))
    assert settings == {
        "Prompt": "a house, best quality, extremely detailed",
        "Negative prompt": one.parameters.n_prompt,
        "Steps": "31",
        "Sampler": "DDIM",
        "CFG scale": "7.123456789012",
        "Seed": "6",
        "Size-1": "192",
        "Size-2": "128",
        "Model hash": "0123456789",
        "Model": "dreamshaper_8",
        "RNG": "CPU",
        "Eta DDIM": "0.5",
    }
    assert unit == {
        "module": "canny",
        "model": "control_v11p_sd15_canny",
        "weight": 1.25,
        "resize_mode": "Just Resize",
        "processor_res": 128,
        "threshold_a": 0,
        "threshold_b": 200,
        "guidance_start": 0,
        "guidance_end": 1,
        "pixel_perfect": False,
        "control_mode": "Balanced",
    }


def test_eta_is_named_only_where_it_is_not_the_default() -> None:
    assert "Eta DDIM" not in read(job(eta=0.0))
    assert read(job(eta=1.0))["Eta DDIM"] == "1"
    assert read(job(eta=1e-07))["Eta DDIM"] == "1e-07"


def test_guess_mode_is_the_control_mode_that_means_the_same() -> None:
    assert unit(job(guess_mode=True))["control_mode"] == "ControlNet is more important"
    assert unit(job(guess_mode=False))["control_mode"] == "Balanced"


@pytest.mark.parametrize(
    "name",
    ["a, b", "a: b", 'a "b" c', '"quoted"', "a\nb", "x, Seed: 99", 'half", Seed: 99', "v1.5", "öl 🦊", "back\\slash"],
)
def test_model_names_that_hold_the_format_s_own_signs_stay_values(name: str) -> None:
    settings = read(job(), ModelLabel(name, name, "ab" * 32))
    assert settings["Model"] == name
    assert settings["Seed"] == "6"
    assert settings["Model hash"] == "ababababab"
    unit = read_unit(settings["ControlNet 0"])  # its fields cannot be quoted, so these signs are replaced
    assert len(unit) == 11
    assert ("_" in str(unit["model"])) == any(sign in name for sign in ",:\n")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
@settings(deadline=None, max_examples=200)
def test_any_model_name_is_read_back_and_breaks_nothing(name: str) -> None:
    name = short_name(name)
    settings = read(job(), ModelLabel(name, name, "ab" * 32))
    assert read_unit(settings["ControlNet 0"])["weight"] == 1
    sizes = {"Model-1", "Model-2"} & settings.keys()  # a model that is called 512x512
    assert sizes or settings.get("Model", "") == name
    assert settings["Steps"] == "20"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "stable-diffusion-v1-5"),
        ("/home/ann/secret-project/dreamshaper_8.safetensors", "dreamshaper_8"),
        ("/data/control_sd15_canny.PTH", "control_sd15_canny"),
        ("/data/v1.5/", "v1.5"),
        ("/data/sd.v1-5.fp16.safetensors", "sd.v1-5.fp16"),
        (r"C:\Users\ann\models\photon_v1.ckpt", "photon_v1"),
        ("/home/ann/.cache/huggingface/hub/models--runwayml--sd-v1-5/snapshots/39593d56501", "sd-v1-5"),
        ("/home/ann/.cache/huggingface/hub/models--runwayml--sd-v1-5/blobs/6ce0161689b3", "sd-v1-5"),
        ("plain", "plain"),
        (".safetensors", ""),
        ("/", ""),
        ("", ""),
    ],
)
def test_a_name_is_the_last_part_of_a_path_or_hub_id(source: str, name: str) -> None:
    assert short_name(source) == name


def test_no_folder_of_the_machine_gets_into_a_picture() -> None:
    label = ModelLabel.of(
        Source(model="/home/ann/secret/model-a.ckpt", controlnet="/mnt/secret/control.pth", weights="ab" * 32)
    )
    assert (label.model, label.controlnet) == ("model-a", "control")
    data = encode_sample(job(), prepared(job()), 0, np.zeros((8, 8, 3), np.uint8), label=label)
    assert b"secret" not in data
    assert b"ann" not in chunks(data)["parameters"].replace("canny", "").encode()


def test_a_model_that_brought_its_controlnet_lends_it_its_name() -> None:
    label = ModelLabel.of(Source(model="/models/control_sd15_canny.pth", controlnet=None, weights="ab" * 32))
    assert unit(job(), label)["model"] == "control_sd15_canny"


def test_another_vae_and_an_earlier_layer_of_clip_are_named() -> None:
    vae = AddedFile(file="/models/vae-ft-mse.safetensors", digest="ab" * 32)
    source = Source(model="a", controlnet=None, weights="ab" * 32, vae=vae, clip_skip=2)
    settings = read(job(), ModelLabel.of(source))
    assert (settings["VAE"], settings["Clip skip"]) == ("vae-ft-mse", "2")
    plain = read(job(), ModelLabel.of(Source(model="a", controlnet=None, weights="ab" * 32)))
    assert not {"VAE", "Clip skip"} & {name for name, value in plain.items() if value not in ("", "1")}


def test_a_quantized_set_is_named_as_web_interfaces_name_it() -> None:
    quantized = replace(LABEL, quantized=True)
    assert read(job(), quantized)["FP8 weight"] == "Enable"
    assert "FP8 weight" not in read(job())


def test_what_is_not_known_is_left_out() -> None:
    settings = read(job(), ModelLabel("", ""))
    assert "Model" not in settings
    assert "Model hash" not in settings
    assert unit(job(), ModelLabel("", ""))["model"] == "None"


@pytest.mark.parametrize(
    ("prompt", "a_prompt", "n_prompt"),
    [
        ("first line\nsecond line", "sharp", "dull\n  blurred  \ngrey"),
        ("a cat", "", ""),
        ("a cat\r\nand a dog", "", "Steps: 5, Sampler: x, Seed: 1"),
        ("Steps: 5, Sampler: x, Seed: 1, Size: 1x1", "", "dull"),
        (" spaces ", "x\n\ny", ""),
    ],
)
def test_prompts_of_several_lines_are_read_back_line_by_line(prompt: str, a_prompt: str, n_prompt: str) -> None:
    """Web interfaces strip every line, so spaces at its ends are not read back."""
    one = job(prompt=prompt, a_prompt=a_prompt, n_prompt=n_prompt)
    settings = read(one)
    full = f"{prompt}, {a_prompt}" if a_prompt else prompt
    assert settings["Prompt"] == "\n".join(line.strip() for line in full.strip().split("\n"))
    assert settings["Negative prompt"] == "\n".join(line.strip() for line in n_prompt.strip().split("\n"))
    assert settings["Seed"] == "6"


def test_a_line_of_a_prompt_that_begins_like_a_negative_prompt_stays_a_part_of_it() -> None:
    """It is written with a small n, which CLIP does not see; the JSON beside it has it to the letter."""
    one = job(prompt="a cat\nNegative prompt: dogs", a_prompt="", n_prompt="dull\nNegative prompt: grey")
    settings = read(one)
    assert settings["Prompt"] == "a cat\nnegative prompt: dogs"
    assert settings["Negative prompt"] == "dull\nnegative prompt: grey"
    data = encode_sample(one, prepared(one), 0, np.zeros((8, 8, 3), np.uint8), label=LABEL)
    assert json.loads(chunks(data)["render"])["prompt"] == "a cat\nNegative prompt: dogs"


def test_the_module_of_the_unit_is_how_the_hint_was_made() -> None:
    assert unit(job(control="none"))["module"] == "none"


def test_an_empty_negative_prompt_has_no_line() -> None:
    assert len(written(job(n_prompt="")).split("\n")) == 2


LITERAL = ["a (cat:1.3)", "a [cat]", "((cat", r"a \(cat\)", "a BREAK b", "(" * 200]


@pytest.mark.parametrize("prompt", LITERAL)
def test_brackets_that_were_text_are_said_to_be_text(prompt: str) -> None:
    """`Emphasis` is how the web interface names its ways to read brackets; `None` is the one that does not."""
    assert read(job(prompt=prompt))["Emphasis"] == "None"
    assert read(job(n_prompt=prompt))["Emphasis"] == "None"


def test_weights_and_plain_prompts_need_no_word_for_their_reading() -> None:
    for prompt in LITERAL[:-1]:
        assert "Emphasis" not in read(job(prompt=prompt, prompt_syntax="weighted"))
    for prompt in ("a cat", "a cat: two dogs", "", "BREAKFAST", "don't, {a|b} <c>"):
        assert "Emphasis" not in read(job(prompt=prompt or EMPTY_PROMPT, n_prompt=prompt))


def test_prompts_in_chunks_are_padded_to_one_length_and_say_so() -> None:
    assert read(job(long_prompts="chunk"))["Pad conds"] == "True"
    assert "Pad conds" not in read(job())


def test_a_renderer_s_pictures_and_results_name_its_own_model() -> None:
    renderer = load_renderer(load_settings(engine_dir=str(tiny_engine_set()), device="cpu", threads=1))
    try:
        one = job()
        data = renderer.encode(one, prepared(one), 0, np.zeros((8, 8, 3), np.uint8))
    finally:
        renderer.close()
    weights = load_manifest(tiny_engine_set()).source.weights
    text = chunks(data)["parameters"]
    settings = read_infotext(text)
    assert (settings["Model"], settings["Model hash"]) == ("model", weights[:10])
    assert read_unit(settings["ControlNet 0"])["model"] == "controlnet"
    assert str(tiny_model().parent) not in text
    assert renderer.model_name == "model"


def test_fake_engines_are_named_as_such() -> None:
    renderer = load_renderer(load_settings(engine_dir="fake:"))
    one = job()
    data = renderer.encode(one, prepared(one), 0, np.zeros((8, 8, 3), np.uint8))
    settings = read_infotext(chunks(data)["parameters"])
    assert settings["Model"] == renderer.model_name == renderer.digest == "fake"
    assert "Model hash" not in settings


def test_a_signed_url_does_not_get_into_the_picture() -> None:
    secret = "https://example.org/a.png?X-Amz-Signature=0123456789abcdef"
    one = job(image=secret)
    data = encode_sample(one, prepared(one), 0, np.zeros((8, 8, 3), np.uint8), label=ModelLabel("m", "c", "f" * 64))
    assert b"0123456789abcdef" not in data
    assert json.loads(chunks(data)["render"])["image"].startswith("https://example.org/a.png")


def test_nor_does_a_control_image_s_in_any_format() -> None:
    secret = "https://me:hunter2@example.org/pose.png?X-Amz-Signature=hunter2"
    for format_ in ("png", "jpeg", "webp"):
        one = job(control_image=secret, control="none", format=format_)
        data = encode_sample(one, prepared(job()), 0, np.zeros((8, 8, 3), np.uint8), label=LABEL)
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == format_.upper()
            render = json.loads(texts_of(image)["render"])
        assert b"hunter2" not in data.replace(b"\0", b"")
        assert render["control_image"] == "https://…@example.org/pose.png?X-Amz-Signature=…"
        assert (render["control"], render["seed"]) == ("none", 5)


def test_a_picture_that_is_the_hint_was_made_by_no_module() -> None:
    assert unit(job(control="none"))["module"] == "none"


@pytest.mark.parametrize("prompt", ["Häuser", "家と猫 🦊", 'a "quoted", \\ text'])
def test_prompts_in_any_script_come_out_of_the_picture_again(prompt: str) -> None:
    one = job(prompt=prompt, a_prompt="")
    texts = chunks(encode_sample(one, prepared(one), 0, np.zeros((8, 8, 3), np.uint8), label=LABEL))
    assert texts["parameters"].split("\n")[0] == prompt
    assert json.loads(texts["render"])["prompt"] == prompt


def test_a_job_that_is_rendered_again_leaves_the_same_bytes() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (128, 192, 3), dtype=np.uint8)
    first, second = (encode_sample(job(), prepared(job()), 0, pixels, label=LABEL) for _ in range(2))
    assert first == second
