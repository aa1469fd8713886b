"""`producer submit --again FOLDER`: pictures that say how they were made are rendered once more."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs.job import RenderJob
from jobs.ledger.ledger import Ledger
from producer.headers.png import PNG_BEGIN
from producer.table.picture_texts import LONGEST_TEXT, DamagedText, picture_texts
from tests.producer.conftest import Run
from tests.producer.pictures import INFOTEXT, OURS, picture, rendered


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    return folder


def jobs(ledger: Ledger, batch: str = "made-again") -> dict[int, RenderJob]:
    return {job.row: job for job in ledger.jobs(batch, list(ledger.ids(batch))).values()}


def test_our_sample_is_rendered_from_its_source_with_its_own_seed(run: Run, ledger: Ledger, made: Path) -> None:
    rendered(made / "a_0.png")
    rendered(made / "a_1.png", seed=42)
    picture(made / "a_canny.png")
    ran = run("submit", "--again", "made")
    assert (ran.code, ran.record["batch"], ran.record["enqueued"]) == (0, "made-again", 2)
    first, second = (jobs(ledger)[row].parameters for row in (1, 2))
    expected = {name: value for name, value in OURS.items() if name != "job"} | {"num_samples": 1}
    assert first.model_dump() == expected
    assert (second.seed, second.image) == (42, "s3://photos/a.png")
    assert "1 picture says nothing of parameters and was left out (first: a_canny.png)" in ran.stderr


def test_options_change_the_container_and_the_model_of_our_pictures_only(run: Run, ledger: Ledger, made: Path) -> None:
    """The source is rendered with the picture's own parameters, those too that it leaves out at their defaults."""
    rendered(made / "a_0.png")
    options = ("--control", "none", "--long-prompts", "chunk", "--prompt-syntax", "weighted", "--model", "mine")
    assert run("submit", "--again", "made", "--format", "webp", "--quality", "80", *options).code == 0
    one = jobs(ledger)[1].parameters
    assert (one.control, one.long_prompts, one.prompt_syntax) == ("canny", "cut", "literal")
    assert (one.model, one.format, one.quality) == ("mine", "webp", 80)


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_a_picture_of_the_web_interface_is_the_input_itself(run: Run, ledger: Ledger, made: Path, ending: str) -> None:
    path = picture(made / f"00001.{ending}", {"parameters": INFOTEXT})
    ran = run("submit", "--again", "made")
    assert ran.code == 0, ran.stderr
    one = jobs(ledger)[1].parameters
    assert (one.image, one.prompt, one.a_prompt, one.n_prompt) == (path.as_uri(), "a cat, red", "", "ugly")
    assert (one.ddim_steps, one.scale, one.seed, one.image_resolution) == (28, 7.0, 965400086, 512)
    assert (one.strength, one.low_threshold, one.high_threshold, one.guess_mode) == (0.8, 90, 180, True)
    assert one.prompt_syntax == "literal"
    assert "1 picture of another tool names no source, so the picture itself is the input" in ran.stderr
    assert "dream_8 (1)" in ran.stderr


@pytest.mark.parametrize("ending", ["jpg", "webp"])
def test_our_json_in_exif_is_the_truth(run: Run, ledger: Ledger, made: Path, ending: str) -> None:
    picture(made / f"a.{ending}", {"parameters": INFOTEXT, "render": json.dumps(OURS)})
    run("submit", "--again", "made")
    assert jobs(ledger)[1].parameters.image == "s3://photos/a.png"


def test_what_is_not_done_here_is_counted_and_weights_are_weights(run: Run, ledger: Ledger, made: Path) -> None:
    text = "a (red:1.3) cat\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 500x520, Clip skip: 2"
    picture(made / "a.png", {"parameters": text + ', ControlNet 0: "Module: depth_midas, Weight: 0.3"'})
    picture(made / "b.png", {"parameters": text})
    ran = run("submit", "--again", "made")
    assert "left out: sampler Euler a (2), Clip skip 2 (2), ControlNet depth_midas (1)" in ran.stderr
    one = jobs(ledger)[1].parameters
    assert (one.prompt_syntax, one.n_prompt, one.image_resolution, one.strength) == ("weighted", "", 512, 1.0)
    run("submit", "--again", "made", "--prompt-syntax", "literal", "--batch", "literal")
    assert jobs(ledger, "literal")[1].parameters.prompt_syntax == "literal"


@pytest.mark.parametrize(
    ("prompt", "syntax"),
    [("a cat BREAK a dog", "weighted"), (r"a \cat", "weighted"), ("cat) :[", "weighted"), ("a cat)", "literal")],
)
def test_what_the_web_interface_reads_as_its_syntax_is_read_so(
    run: Run, ledger: Ledger, made: Path, prompt: str, syntax: str
) -> None:
    picture(made / "a.png", {"parameters": f"{prompt}\nSteps: 20, CFG scale: 7, Seed: 1, Size: 512x512"})
    run("submit", "--again", "made")
    assert jobs(ledger)[1].parameters.prompt_syntax == syntax


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('ControlNet 0: "Module: canny, Guidance Start: 0.0, Guidance End: 0.8"', "ControlNet for a part of the steps"),
        ('ControlNet 0: "preprocessor: canny, starting/ending: (0.2, 1)"', "ControlNet for a part of the steps"),
        (
            'ControlNet 0: "Module: canny, Control Mode: My prompt is more important"',
            "ControlNet: prompt more important",
        ),
        ('ControlNet 0: "Module: canny, Control Mode: ControlMode.PROMPT"', "ControlNet: prompt more important"),
        ("Face restoration: CodeFormer", "Face restoration"),
        ("ADetailer model: face_yolov8n.pt, VAE hash: 0123456789", "ADetailer model"),
        ("VAE: vae-ft-mse-840000-ema-pruned.safetensors", "VAE"),
        ("Tiling: True", "Tiling"),
        ("Emphasis: No norm", "Emphasis No norm"),
        ("Emphasis: Ignore", "Emphasis Ignore"),
        ('ControlNet 0: "Module: canny, Guidance Start: 0.0, Guidance End: 1, Control Mode: Balanced"', None),
        ('ControlNet 0: "preprocessor: canny, starting/ending: (0, 1)"', None),
        ("Emphasis: None, Tiling: False", None),
    ],
)
def test_what_changes_weights_or_the_control_is_counted(run: Run, made: Path, settings: str, said: str | None) -> None:
    picture(made / "a.png", {"parameters": f"a cat\nSteps: 20, CFG scale: 7, Seed: 1, Size: 512x512, {settings}"})
    ran = run("submit", "--again", "made", "--dry-run")
    assert ran.code == 0, ran.stderr
    assert f"left out: {said} (1)" in ran.stderr if said else "left out" not in ran.stderr


def test_brackets_are_text_where_the_picture_says_so(run: Run, ledger: Ledger, made: Path) -> None:
    picture(made / "a.png", {"parameters": "a (red:1.3) cat\nSteps: 20, Emphasis: None, Seed: 1, Size: 512x512"})
    run("submit", "--again", "made")
    assert jobs(ledger)[1].parameters.prompt_syntax == "literal"


@pytest.mark.parametrize("mode", ["ControlNet is more important", "ControlMode.CONTROL"])
def test_guess_mode_is_read_as_the_page_and_the_api_of_the_web_interface_write_it(
    run: Run, ledger: Ledger, made: Path, mode: str
) -> None:
    unit = f'ControlNet 0: "Module: canny, Weight: 1.0, Resize Mode: ResizeMode.INNER_FIT, Control Mode: {mode}"'
    picture(made / "a.png", {"parameters": f"a cat\nSteps: 20, CFG scale: 7, Seed: 1, Size: 512x512, {unit}"})
    run("submit", "--again", "made")
    assert jobs(ledger)[1].parameters.guess_mode


@pytest.mark.parametrize(("low", "high"), [(80, 160), (160, 80)])
def test_thresholds_may_stand_in_any_order_as_in_the_web_interface(
    run: Run, ledger: Ledger, made: Path, low: int, high: int
) -> None:
    unit = f'ControlNet 0: "Module: canny, Weight: 1.0, Threshold A: {low}, Threshold B: {high}.0"'
    picture(made / "a.png", {"parameters": f"a cat\nSteps: 20, CFG scale: 7, Seed: 1, Size: 512x512, {unit}"})
    assert run("submit", "--again", "made").code == 0
    parameters = jobs(ledger)[1].parameters
    assert (parameters.low_threshold, parameters.high_threshold) == (80, 160)


@pytest.mark.parametrize("templates", ["Template: a {cat|dog}\nNegative Template: {bad}", "Negative Template:a,\nb"])
def test_templates_behind_the_settings_are_left_out(run: Run, ledger: Ledger, made: Path, templates: str) -> None:
    text = f"a cat\nTemplate: of mine\nSteps: 20, CFG scale: 7, Seed: 5, Size: 512x512\n{templates}"
    picture(made / "a.png", {"parameters": text.replace("Template: of mine\n", "")})
    picture(made / "b.png", {"parameters": "\n".join(text.split("\n")[:3])})
    assert run("submit", "--again", "made").code == 0
    prompts = [jobs(ledger)[row].parameters.prompt for row in (1, 2)]
    assert prompts == ["a cat", "a cat\nTemplate: of mine"]
    assert jobs(ledger)[1].parameters.seed == 5


def test_an_older_unit_has_its_thresholds_in_brackets(run: Run, ledger: Ledger, made: Path) -> None:
    unit = "preprocessor: canny, model: x, weight: 0.7, control mode: Balanced, preprocessor params: (512, 60, 120)"
    text = f'a\nSteps: 20, CFG scale: 7, Seed: 1, Size: 512x512, ControlNet 0: "{unit}"'
    picture(made / "a.png", {"parameters": text})
    run("submit", "--again", "made")
    one = jobs(ledger)[1].parameters
    assert (one.strength, one.low_threshold, one.high_threshold, one.guess_mode) == (0.7, 60, 120, False)


CAMERA_TEXTS: dict[str, dict[int, Any]] = {
    "a camera's name": {0x010E: "OLYMPUS DIGITAL CAMERA"},
    "a phone's word": {0x9286: b"ASCII\0\0\0Screenshot"},
    "a maker's own bytes": {0x927C: b"Apple iOS\0\0\1MM" + bytes(range(256))},
    "a title": {0x9C9C: "Steps: a holiday".encode("utf-16-le")},
}


@pytest.mark.parametrize("texts", CAMERA_TEXTS.values(), ids=CAMERA_TEXTS)
def test_a_photograph_says_nothing_of_parameters_whatever_its_camera_writes(
    run: Run, ledger: Ledger, made: Path, texts: dict[int, Any]
) -> None:
    exif = Image.Exif()
    inner = exif.get_ifd(0x8769)
    for tag, value in texts.items():
        (exif if tag in (0x010E, 0x9C9C) else inner)[tag] = value
    Image.new("RGB", (64, 64)).save(made / "photo.jpg", exif=exif)
    if 0x010E not in texts:
        exif[0x010E] = INFOTEXT
        Image.new("RGB", (64, 64)).save(made / "rendered.jpg", exif=exif)
    ran = run("submit", "--again", "made")
    assert ran.code == (5 if 0x010E in texts else 0), ran.stderr  # a folder of photographs alone
    assert "1 picture says nothing of parameters and was left out (first: photo.jpg)" in ran.stderr
    if 0x010E not in texts:
        assert jobs(ledger)[1].parameters.prompt == "a cat, red"


@pytest.mark.parametrize(
    "uri",
    [
        "https://host/a.png?X-Amz-Signature=…",
        "https://…@host/a.png",
        "https://host:…/a.png",
        "https://host/a.png#…",
        "s3://bucket/a.png?X-Amz-Signature=…&x=1",
    ],
)
def test_a_uri_whose_secret_was_taken_out_is_a_row_error(run: Run, ledger: Ledger, made: Path, uri: str) -> None:
    rendered(made / "a.png")
    rendered(made / "b.png", image=uri)
    ran = run("submit", "--again", "made")
    assert (ran.code, ledger.batches()) == (3, [])
    assert "made: b.png: image: is a URL whose password or signature was taken out" in ran.stderr
    skipped = run("submit", "--again", "made", "--skip-invalid")
    assert (skipped.record["enqueued"], skipped.record["rejected"]) == (1, 1)
    assert Path(skipped.record["rejected_file"]) == made.with_name("made.rejected.csv")


@pytest.mark.parametrize("uri", ["https://host/a…b.png?w=512", "file:///a%20…?x=….png", "s3://bucket/a…?b.png"])
def test_an_ellipsis_in_a_name_is_no_secret(run: Run, made: Path, uri: str) -> None:
    rendered(made / "a.png", image=uri)
    assert run("submit", "--again", "made").record["enqueued"] == 1


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ({"render": json.dumps(OURS | {"later": 1})}, "its parameters have 'later', which this version does not know"),
        ({"render": json.dumps(OURS | {"ddim_steps": 0})}, "a.png: ddim_steps: '0' is out of range"),
        ({"render": json.dumps(OURS | {"prompt": ["x"]})}, "a.png: prompt: holds a list"),
        ({"parameters": "a cat"}, "a.png: its text `parameters` has no line of settings with Steps"),
        ({"parameters": "a\nSteps: x, Seed: 1, Size: 8x8"}, "a.png: ddim_steps: 'x' is not a whole number"),
        ({"parameters": "a\nSteps: 5, Seed: 99999999999, Size: 8x8"}, "a.png: seed: '99999999999' is out of range"),
    ],
)
def test_a_bad_picture_is_named(run: Run, made: Path, texts: dict[str, str], sentence: str) -> None:
    picture(made / "a.png", texts)
    ran = run("submit", "--again", "made")
    assert ran.code == 3
    assert sentence in ran.stderr


@pytest.mark.parametrize("text", ["no json", "[1]", '{"image": 1}', "{" * 5000, '"' + "x" * 300 + '"'])
def test_a_text_of_that_name_by_others_is_not_ours(run: Run, ledger: Ledger, made: Path, text: str) -> None:
    picture(made / "a.png", {"render": text, "parameters": INFOTEXT})
    assert run("submit", "--again", "made").code == 0
    assert jobs(ledger)[1].parameters.prompt == "a cat, red"


def test_added_pictures_are_the_only_new_jobs_and_equal_ones_are_two(run: Run, ledger: Ledger, made: Path) -> None:
    for name in ("b.png", "b2.png"):
        rendered(made / name)
    assert run("submit", "--again", "made").record["enqueued"] == 2
    rendered(made / "a.png", seed=7)
    again = run("submit", "--again", "made")
    assert (again.record["enqueued"], again.record["replaced"]) == (1, 0)
    assert [jobs(ledger)[row].parameters.seed for row in (1, 2, 3)] == [41, 41, 7]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["made", "--prompt", "x"], 2, "--prompt does not go with --again"),
        (["made", "--input-format", "csv"], 2, "--input-format is about a file of rows; --again reads pictures"),
        (["jobs.csv"], 2, "--again reads the pictures of a folder, and jobs.csv is not a folder"),
        (["away"], 5, "away: No such file or directory"),
    ],
)
def test_what_does_not_go_with_again_is_said(
    run: Run, made: Path, tmp_path: Path, arguments: list[str], code: int, sentence: str
) -> None:
    (tmp_path / "jobs.csv").write_text("image,prompt\n")
    ran = run("submit", "--again", *arguments)
    assert ran.code == code
    assert sentence in ran.stderr


def chunk(kind: bytes, body: bytes, *, checksum: int | None = None) -> bytes:
    crc = zlib.crc32(kind + body) if checksum is None else checksum
    return len(body).to_bytes(4, "big") + kind + body + crc.to_bytes(4, "big")


def test_texts_of_every_chunk_type_and_place_are_read(made: Path) -> None:
    path = picture(made / "a.png")
    whole = path.read_bytes()
    packed = chunk(b"zTXt", b"parameters\0\0" + zlib.compress(b"caf\xe9"))
    wide = chunk(b"iTXt", b"parameters\0\1\0en\0\0" + zlib.compress("öl 猫".encode()))
    for extra, text in ((packed, "café"), (wide, "öl 猫"), (packed + wide, "öl 猫")):
        path.write_bytes(whole[:-12] + extra + whole[-12:])  # behind the pixels
        assert picture_texts(path).parameters == text


@pytest.mark.parametrize(
    "damaged",
    [
        chunk(b"tEXt", b"parameters\0x", checksum=1),
        chunk(b"iTXt", b"parameters\0\0\0\0\0\xff"),
        chunk(b"iTXt", b"parameters\0\0"),
        chunk(b"zTXt", b"parameters\0\0nothing packed"),
        chunk(b"zTXt", b"render\0\0" + zlib.compress(bytes(2 * LONGEST_TEXT))),
    ],
)
def test_a_damaged_text_is_a_row_error(run: Run, made: Path, damaged: bytes) -> None:
    (made / "a.png").write_bytes(PNG_BEGIN + damaged)
    with pytest.raises(DamagedText):
        picture_texts(made / "a.png")
    ran = run("submit", "--again", "made")
    assert ran.code == 3
    assert "made: a.png: the picture cannot be read: its text '" in ran.stderr


@pytest.mark.parametrize(
    "data", [b"", b"junk", PNG_BEGIN, PNG_BEGIN + b"\xff\xff\xff\xffIDAT", b"\xff\xd8\xff\xe1\0\x10Exif\0\0MM"]
)
def test_what_has_no_texts_is_left_out(made: Path, data: bytes) -> None:
    (made / "a.png").write_bytes(data)
    assert picture_texts(made / "a.png") == (None, None)
