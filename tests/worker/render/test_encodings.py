"""Equal prompts and equal edges are encoded once, across jobs."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worker.loops import Device
from tests.worker.samples import sample_spec
from worker.render.encodings import Encodings, Recent


class Encoder:
    """Doubles numbers and records its calls. A row of 4 float32 has 16 bytes."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []

    def __call__(self, arrays: np.ndarray) -> torch.Tensor:
        self.calls.append([int(row[0]) for row in arrays])
        return torch.from_numpy(arrays).float() * 2


def row(number: int) -> np.ndarray:
    return np.full(4, number, np.int64)


def test_what_is_missing_is_encoded_in_one_call_and_each_content_once() -> None:
    encoder = Encoder()
    recent = Recent(encoder, limit_bytes=1000)
    rows = recent.get([row(1), row(2), row(1)])
    assert [float(one[0]) for one in rows] == [2, 4, 2]
    assert torch.equal(recent.get([row(2), row(3)])[0], rows[1])
    assert encoder.calls == [[1, 2], [3]]


def test_the_least_recently_used_are_forgotten_first() -> None:
    encoder = Encoder()
    recent = Recent(encoder, limit_bytes=32)  # two rows
    for number in (1, 2, 1, 3, 1, 2):
        recent.get([row(number)])
    assert encoder.calls == [[1], [2], [3], [2]]


def test_more_than_the_limit_at_once_is_still_given() -> None:
    encoder = Encoder()
    recent = Recent(encoder, limit_bytes=0)
    assert [float(one[0]) for one in recent.get([row(1), row(2)])] == [2, 4]
    recent.get([row(2)])
    assert encoder.calls == [[1, 2], [2]]


def test_those_of_another_shape_are_encoded_in_a_call_of_their_own() -> None:
    shapes: list[tuple[int, ...]] = []

    def encode(arrays: np.ndarray) -> torch.Tensor:
        shapes.append(arrays.shape)
        return torch.from_numpy(arrays).float().flatten(1).sum(dim=1, keepdim=True)

    recent = Recent(encode, limit_bytes=1000)
    arrays = [np.full(shape, n, np.uint8) for n, shape in enumerate([(2, 8), (2, 8, 3), (2, 8), (2, 8, 3)], 1)]
    assert [float(one) for one in recent.get(arrays)] == [16, 2 * 48, 3 * 16, 4 * 48]
    assert shapes == [(2, 2, 8), (2, 2, 8, 3)]
    recent.get(arrays)
    assert len(shapes) == 2


def test_edges_and_pictures_share_a_batch() -> None:
    specs = [sample_spec(1), sample_spec(2, edges=np.full((64, 64, 3), 255, np.uint8))]
    first, second = Encodings(Device()).encode(specs)
    assert first.guided_hint.shape == second.guided_hint.shape
    assert specs[0].shape == specs[1].shape


def test_equal_bytes_of_another_shape_are_not_equal() -> None:
    recent = Recent(lambda arrays: torch.from_numpy(arrays).float(), limit_bytes=1000)
    (wide,) = recent.get([np.zeros((2, 8), np.uint8)])
    (tall,) = recent.get([np.zeros((8, 2), np.uint8)])
    assert wide.shape == (2, 8)
    assert tall.shape == (8, 2)


def test_an_encoding_does_not_keep_its_whole_call_alive() -> None:
    recent = Recent(Encoder(), limit_bytes=1000)
    (first, _) = recent.get([row(1), row(2)])
    assert first.untyped_storage().nbytes() == first.nbytes


def test_the_number_of_entries_is_bounded_too() -> None:
    encoder = Encoder()
    recent = Recent(encoder, limit_bytes=10**6, limit_entries=2)
    for number in (1, 2, 1, 3, 1, 2):
        recent.get([row(number)])
    assert encoder.calls == [[1], [2], [3], [2]]


def test_an_encoding_that_is_in_use_does_not_change_when_its_place_is_given_to_another() -> None:
    recent = Recent(Encoder(), limit_bytes=1000, limit_entries=1)
    (one,) = recent.get([row(1)])
    (again,) = recent.get([row(1)])
    recent.get([row(2)])
    assert (float(one[0]), float(again[0])) == (2.0, 2.0)


@given(st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=5), max_size=12), st.integers(0, 6))
@settings(deadline=None)
def test_what_is_found_never_depends_on_what_is_remembered(asked: list[list[int]], rows_kept: int) -> None:
    recent = Recent(Encoder(), limit_bytes=16 * rows_kept)
    for numbers in asked:
        assert [float(one[0]) for one in recent.get([row(number) for number in numbers])] == [2 * n for n in numbers]


def test_equal_prompts_and_equal_edges_are_shared_by_jobs_and_samples() -> None:
    device = Device()
    encodings = Encodings(device)
    one, other = sample_spec(1), sample_spec(2)
    encodings.encode([one, sample_spec(1, seed=9), other])
    assert (device.sizes("text"), device.sizes("hint")) == ([3], [2])  # the shared n_prompt, two prompts; two edge maps
    encodings.encode([sample_spec(3, cond_ids=one.cond_ids, edges=other.edges)])
    assert (device.sizes("text"), device.sizes("hint")) == ([3], [2])


def test_conditioning_has_the_unconditional_row_first() -> None:
    spec = sample_spec(5, uncond_control_scales=(0.0,) * 13, cond_control_scales=tuple(map(float, range(13))))
    (conditioning,) = Encodings(Device()).encode([spec])
    assert conditioning.context[:, 0, 0].tolist() == [7.0, 105.0]
    assert conditioning.control_scales.tolist() == [[0.0] * 13, [float(i) for i in range(13)]]
    assert conditioning.guided_hint.shape == (1, 8, 8)
    assert conditioning.latent_shape == (4, 8, 8)
