"""The half of TensorRT that needs a GPU: plans built here for this GPU, run beside torch in float32.

python -m pytest -m gpu tests/gpu/test_tensorrt_runtime.py
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engines.backends.tensorrt import package
from engines.build.builder import BuildRequest, build_set
from engines.build.recipe import recipe_for
from engines.check.verify import likely_inputs, verify
from engines.cuda_graph import Graphed
from engines.engine_set import EngineSet, load_engine_set
from engines.errors import BackendUnavailable, EngineSetRefused
from engines.manifest import Precision
from engines.spec import Profile
from tests.engines.sets import edit_manifest
from tests.models import CACHE, tiny_model

pytestmark = pytest.mark.gpu

PROFILES = (Profile.parse("64x64:128x192", max_batch=4), Profile.parse("256x256", max_batch=2))


def why_not() -> str | None:
    """Half a sentence; None where plans can be built and run."""
    if not torch.cuda.is_available():
        return "there is no NVIDIA GPU here"
    return package.why_not_run()


def tensorrt_set(precision: Precision) -> Path:
    reason = why_not()
    if reason is not None:
        pytest.skip(f"TensorRT plans cannot run: {reason}")
    model = tiny_model()
    out = CACHE / f"tensorrt-here-{precision}"
    try:
        build_set(
            BuildRequest(
                model=str(model / "model"),
                controlnet=str(model / "controlnet"),
                out=out,
                backend="tensorrt",
                precision=precision,
                profiles=PROFILES,
            )
        )
    except BackendUnavailable as error:
        pytest.skip(f"TensorRT plans cannot be built for this GPU: {error}")
    return out


def finest() -> Precision:
    """float32 where it can be had: what one call returns and what the next are compared more closely there."""
    try:
        recipe_for("tensorrt", precision="fp32", profiles=PROFILES, capability=None)
    except BackendUnavailable:
        return "fp16"
    return "fp32"


@pytest.fixture(scope="module")
def folder() -> Path:
    return tensorrt_set(finest())


@pytest.fixture(scope="module")
def engines(folder: Path) -> Iterator[EngineSet]:
    with load_engine_set(folder, device="cuda") as opened:
        yield opened


def inputs_for(engines: EngineSet, name: str, size: tuple[int, int, int]) -> dict[str, Tensor]:
    batch, height, width = size
    spec = engines.manifest.components[name].spec
    made = likely_inputs(spec, batch, height=height, width=width)
    return {
        key: tensor.to(engines.device, engines.io_dtype if tensor.is_floating_point() else None)
        for key, tensor in made.items()
    }


def test_every_component_agrees_with_torch_in_float32_at_the_ends_of_every_profile() -> None:
    findings = list(verify(tensorrt_set("fp32"), device="cuda"))
    assert len(findings) == 5 * 4
    assert [finding for finding in findings if not finding.ok] == []


def test_half_precision_stays_near_float32() -> None:
    findings = list(verify(tensorrt_set("fp16"), within=0.05, device="cuda"))
    assert [finding for finding in findings if not finding.ok] == []


@pytest.mark.parametrize("name", ["clip", "hint", "controlnet", "unet", "decoder"])
def test_a_replay_gives_what_the_first_call_gave_and_never_the_same_memory(engines: EngineSet, name: str) -> None:
    inputs = inputs_for(engines, name, (2, 128, 128))
    engine = engines.engine(name)
    first = engine(inputs)
    kept = {key: tensor.clone() for key, tensor in first.items()}
    other = {key: tensor.flip(0).contiguous() for key, tensor in inputs.items()}
    changed, again = engine(other), engine(inputs)
    for key, tensor in kept.items():
        torch.testing.assert_close(first[key], tensor, rtol=0, atol=0)
        torch.testing.assert_close(again[key], tensor, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(changed[key].flip(0), tensor, rtol=1e-3, atol=1e-3)
        assert len({first[key].data_ptr(), changed[key].data_ptr(), again[key].data_ptr()}) == 3


def test_shapes_and_profiles_may_alternate(engines: EngineSet) -> None:
    sizes = [(1, 64, 64), (4, 128, 192), (2, 256, 256)]
    inputs = {size: inputs_for(engines, "unet", size) for size in sizes}
    engine = engines.engine("unet")
    expected = {size: engine(inputs[size])["latent"] for size in sizes}
    for size in [*sizes[::-1], *sizes]:
        torch.testing.assert_close(engine(inputs[size])["latent"], expected[size], rtol=1e-4, atol=1e-5)


def test_a_step_of_two_engines_is_captured_as_one_graph(engines: EngineSet) -> None:
    """What the worker does: the engines' kernels become part of the step's own graph."""

    def step(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        controls = engines.engine("controlnet")(given)
        return {"latents": given["x_noisy"] - 0.1 * engines.engine("unet")({**given, **controls})["latent"]}

    graphed = Graphed(step, engines.device)
    for size in ((2, 128, 128), (1, 64, 128), (2, 128, 128)):
        given = inputs_for(engines, "controlnet", size)
        expected = step(given)["latents"]
        for _ in range(3):
            torch.testing.assert_close(graphed(given)["latents"], expected, rtol=1e-4, atol=1e-4)


def test_a_call_on_another_stream_waits_for_its_inputs(engines: EngineSet) -> None:
    inputs = inputs_for(engines, "decoder", (1, 128, 128))
    expected = engines.engine("decoder")(inputs)["image"]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = {key: tensor * 2 / 2 for key, tensor in inputs.items()}
        found = engines.engine("decoder")(late)["image"]
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_a_shape_outside_every_profile_is_refused(engines: EngineSet) -> None:
    with pytest.raises(ValueError, match="no profile of decoder covers latent"):
        engines.engine("decoder")(inputs_for(engines, "decoder", (1, 512, 512)))


def test_dropped_engines_open_again_and_agree(engines: EngineSet) -> None:
    inputs = inputs_for(engines, "hint", (1, 64, 64))
    before = engines.engine("hint")(inputs)["guided_hint"]
    engines.unload(["hint"])
    torch.testing.assert_close(engines.engine("hint")(inputs)["guided_hint"], before, rtol=1e-4, atol=1e-5)


def test_a_second_start_compiles_nothing_that_the_first_one_compiled(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """TensorRT for RTX only: `tensorrt` compiles nothing at run time."""

    def start() -> tuple[dict[str, Tensor], dict[str, int]]:
        with load_engine_set(folder, device="cuda", cache=tmp_path) as opened:
            results: dict[str, Tensor] = {}
            for name, size in (("hint", (1, 64, 64)), ("decoder", (1, 128, 128)), ("decoder", (2, 128, 128))):
                results |= opened.engine(name)(inputs_for(opened, name, size))
        return results, {path.name: path.stat().st_size for path in tmp_path.rglob("*.kernels")}

    first, written = start()
    if package.package_name() != "tensorrt_rtx":
        assert written == {}
        return
    assert written.keys() == {"hint.kernels", "decoder.kernels"}
    with caplog.at_level("INFO", logger="engines"):
        second, now = start()
    assert caplog.text.count("bytes of compiled kernels were loaded") == 2
    assert now == written  # nothing was added
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-3)


def test_plans_for_another_gpu_are_refused(folder: Path) -> None:
    original = (folder / "manifest.json").read_text()
    try:
        edit_manifest(folder, lambda manifest: manifest.update(architecture="sm75"))
        with pytest.raises(EngineSetRefused, match="the set was built for sm75, this machine's GPU"):
            load_engine_set(folder)
    finally:
        (folder / "manifest.json").write_text(original)
