from __future__ import annotations

import pytest

from engines.spec import COMPONENTS, MOST_CONTEXT_CHUNKS, Geometry, Profile, component_specs

SD15 = component_specs(Geometry())


def shapes(component: str, kind: str, batch: int = 1) -> dict[str, tuple[int, ...]]:
    return {tensor.name: tensor.sized(batch, height=256, width=384) for tensor in getattr(SD15[component], kind)}


def test_the_thirteen_controls_of_256x384_have_the_published_shapes() -> None:
    assert list(shapes("controlnet", "outputs").values()) == [
        *[(2, 320, 32, 48)] * 3,
        (2, 320, 16, 24),
        *[(2, 640, 16, 24)] * 2,
        (2, 640, 8, 12),
        *[(2, 1280, 8, 12)] * 2,
        *[(2, 1280, 4, 6)] * 4,
    ]


def test_rows_are_twice_the_images_and_only_in_diffusion_engines() -> None:
    assert shapes("clip", "inputs", batch=3) == {"input_ids": (3, 77)}
    assert shapes("hint", "inputs", batch=3) == {"hint": (3, 3, 256, 384)}
    assert shapes("decoder", "outputs", batch=3) == {"image": (3, 3, 256, 384)}
    assert shapes("unet", "outputs", batch=3) == {"latent": (6, 4, 32, 48)}
    assert shapes("controlnet", "inputs", batch=3)["control_scales"] == (6, 13)


def test_sizes_are_read_back_from_shapes() -> None:
    for name in COMPONENTS:
        for tensor in (*SD15[name].inputs, *SD15[name].outputs):
            shape = tensor.sized(3, height=256, width=384)
            assert tensor.with_sizes(tensor.sizes_of(shape)) == shape


@pytest.mark.parametrize("text", ["512x512", "256x256:512x768"])
def test_a_shape_reads_back_as_written(text: str) -> None:
    assert Profile.parse(text, max_batch=4).text == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("512", "HEIGHTxWIDTH"),
        ("512x", "HEIGHTxWIDTH"),
        ("500x512", "multiples of 64"),
        ("0x64", "multiples of 64"),
        ("512x512:256x512", "smaller shape comes first"),
    ],
)
def test_a_bad_shape_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Profile.parse(text, max_batch=4)


def test_a_range_covers_multiples_of_64_between_its_ends_and_nothing_else() -> None:
    profile = Profile.parse("256x256:512x768", max_batch=4)
    assert profile.covers(256, 768)
    assert profile.covers(320, 256)
    assert not profile.covers(576, 256)
    assert not profile.covers(300, 256)
    assert not profile.covers(512, 832)


def test_bounds_are_in_rows_and_latent_cells() -> None:
    profile = Profile.parse("256x256:512x768", max_batch=4)
    assert profile.bounds(SD15["unet"].inputs[0]) == ((2, 4, 32, 32), (8, 4, 64, 96), (8, 4, 64, 96))


def test_a_context_of_several_chunks_is_dynamic_and_nothing_else_differs() -> None:
    longer = component_specs(Geometry(), context_chunks=3)
    for name in COMPONENTS:
        for tensor, same in zip(
            (*longer[name].inputs, *longer[name].outputs), (*SD15[name].inputs, *SD15[name].outputs), strict=True
        ):
            assert (tensor == same) == (tensor.name != "context")
    context = longer["unet"].inputs[2]
    assert context.dynamic == {0: "R", 1: "77k"}
    assert context.sized(2, height=64, width=64) == (4, 77, 768)
    assert context.sized(2, height=64, width=64, chunks=3) == (4, 231, 768)
    assert context.sizes_of((4, 231, 768)) == {"R": 4, "k": 3}
    assert component_specs(Geometry(), context_chunks=2) == longer


def test_a_profile_of_several_chunks_holds_short_prompts_too() -> None:
    profile = Profile.parse("256x256:512x768", max_batch=4, context_chunks=3)
    context = component_specs(Geometry(), context_chunks=3)["controlnet"].inputs[3]
    assert profile.bounds(context) == ((2, 77, 768), (8, 77, 768), (8, 231, 768))
    assert Profile.model_validate_json(profile.model_dump_json()) == profile
    for chunks in (0, MOST_CONTEXT_CHUNKS + 1):
        with pytest.raises(ValueError, match="max_context_chunks"):
            Profile.parse("64x64", max_batch=1, context_chunks=chunks)


def test_a_profile_of_one_chunk_is_written_as_before_there_were_several() -> None:
    profile = Profile.parse("64x64", max_batch=1, context_chunks=1)
    assert "max_context_chunks" not in profile.model_dump_json()
    assert "max_context_chunks" not in profile.model_dump()
