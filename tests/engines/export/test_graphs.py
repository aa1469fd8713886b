"""The names, types and axes of the exported graphs, and the sizes that they are compared at. Nothing is traced here."""

from __future__ import annotations

import pytest

from engines.export.graphs import GRAPHS, lineage_specs
from engines.export.sizes import MAX_OPSET, MIN_OPSET, OPSET, USUAL, Sizes
from engines.spec import ComponentSpec, Geometry, Profile
from tools import ROOT

CONTROLS = [f"control{i}" for i in range(13)]
# As in the export scripts of ControlNet's TensorRT ports, written once more.
NAMES = {
    "CLIP": (["input_ids"], ["last_hidden_state"]),
    "CONTROL_NET": (["x_noisy", "hint", "timestep", "context"], CONTROLS),
    "CONTROL_UNET": (["x_noisy", "timestep", "context", *CONTROLS], ["latent"]),
    "DECODER": (["latent"], ["image"]),
}


def shapes(spec: ComponentSpec) -> dict[str, tuple[str | int, ...]]:
    return {tensor.name: tensor.shape for tensor in (*spec.inputs, *spec.outputs)}


def sizes(*texts: str, dynamic: bool = False) -> Sizes:
    return Sizes.of([Profile.parse(text, max_batch=1) for text in texts], dynamic=dynamic)


@pytest.mark.parametrize("fixed", [None, (256, 384)])
def test_the_names_are_those_of_the_tensorrt_ports_in_their_order(fixed: tuple[int, int] | None) -> None:
    specs = lineage_specs(Geometry(), fixed)
    assert tuple(specs) == GRAPHS == tuple(NAMES)
    for name, (inputs, outputs) in NAMES.items():
        assert [tensor.name for tensor in specs[name].inputs] == inputs
        assert [tensor.name for tensor in specs[name].outputs] == outputs


def test_whole_numbers_are_32_bits_wide_as_in_the_ports() -> None:
    for spec in lineage_specs(Geometry()).values():
        for tensor in (*spec.inputs, *spec.outputs):
            assert tensor.dtype == ("int32" if tensor.name in ("input_ids", "timestep") else "float")


def test_without_a_size_batch_prompt_and_picture_are_dynamic() -> None:
    specs = lineage_specs(Geometry())
    assert shapes(specs["CLIP"]) == {"input_ids": ("N", "S"), "last_hidden_state": ("N", "S", 768)}
    control_net = shapes(specs["CONTROL_NET"])
    assert control_net["x_noisy"] == ("N", 4, "h", "w")
    assert control_net["hint"] == ("N", 3, "8h", "8w")
    assert control_net["timestep"] == ("N",)
    assert control_net["context"] == ("N", "S", 768)
    assert control_net["control3"] == ("N", 320, "h/2", "w/2")
    assert control_net["control12"] == ("N", 1280, "h/8", "w/8")
    assert shapes(specs["CONTROL_UNET"])["latent"] == ("N", 4, "h", "w")
    assert shapes(specs["DECODER"]) == {"latent": ("N", 4, "h", "w"), "image": ("N", 3, "8h", "8w")}


def test_a_size_makes_numbers_of_the_pictures_axes_alone() -> None:
    """256x384 is the size that the ports are built for: these are the shapes in their scripts."""
    specs = lineage_specs(Geometry(), (256, 384))
    assert shapes(specs["CLIP"]) == {"input_ids": ("N", "S"), "last_hidden_state": ("N", "S", 768)}
    control_net = shapes(specs["CONTROL_NET"])
    assert control_net["x_noisy"] == ("N", 4, 32, 48)
    assert control_net["hint"] == ("N", 3, 256, 384)
    assert control_net["context"] == ("N", "S", 768)
    wanted = [(320, 32, 48)] * 3 + [(320, 16, 24)] + [(640, 16, 24)] * 2 + [(640, 8, 12)] + [(1280, 8, 12)] * 2
    wanted += [(1280, 4, 6)] * 4
    assert [control_net[name] for name in CONTROLS] == [("N", *shape) for shape in wanted]
    assert shapes(specs["DECODER"]) == {"latent": ("N", 4, 32, 48), "image": ("N", 3, 256, 384)}


@pytest.mark.parametrize(
    ("given", "fixed", "checked"),
    [
        (sizes(), None, USUAL),
        (sizes(dynamic=True), None, USUAL),
        (sizes("256x384"), (256, 384), ((256, 384),)),
        (sizes("256x384", "256x384"), (256, 384), ((256, 384),)),
        (sizes("256x384", dynamic=True), None, ((256, 384),)),
        (sizes("256x256:512x768"), None, ((256, 256), (512, 768))),
        (sizes("512x512", "512x768"), None, ((512, 512), (512, 768))),
    ],
)
def test_one_size_is_fixed_and_all_else_is_dynamic(
    given: Sizes, fixed: tuple[int, int] | None, checked: tuple[tuple[int, int], ...]
) -> None:
    assert (given.fixed, given.checked) == (fixed, checked)
    assert given.text == ("dynamic" if fixed is None else "256x384")


@pytest.mark.parametrize("given", [sizes(), sizes("128x192", dynamic=True), sizes("128x192", "64x128"), sizes("64x64")])
def test_a_graph_is_compared_at_a_batch_and_a_size_that_were_not_traced(given: Sizes) -> None:
    """An axis that tracing made a number would hold at the traced size."""
    assert {batch for batch, _ in given.runs} == {1, 3}
    if given.fixed is None:
        assert any(size != given.traced for _, size in given.runs)
    else:
        assert {size for _, size in given.runs} == {given.traced} == {given.fixed}


def test_the_page_names_the_opsets() -> None:
    page = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    assert f"**`--opset`** is {MIN_OPSET} to {MAX_OPSET}, and {OPSET} without it" in page
