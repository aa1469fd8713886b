"""The loop, turn by turn: who is admitted, who steps, who leaves; what breaks is in test_loop_faults."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import Cancelled, HandedBack
from tests.worker.recording import RecordingDenoiser, alone, ask, run_out, submitted
from worker.denoiser import FakeDenoiser
from worker.loop import RenderLoop

# -- admission and retirement -----------------------------------------------------------------------------------------


def test_nothing_to_do_is_no_turn() -> None:
    loop = RenderLoop(FakeDenoiser())
    assert not loop.step()
    assert loop.stats().steps == 0


def test_a_sample_is_done_after_its_steps() -> None:
    loop = RenderLoop(FakeDenoiser())
    future = loop.submit(ask("a", steps=3))
    assert [loop.step() for _ in range(2)] == [True, True]
    assert not future.done()
    assert loop.step()
    assert future.result(0).shape == (64, 64, 3)
    assert future.result(0).dtype == np.uint8
    assert not loop.step()


def test_waiting_samples_take_free_slots_in_the_order_they_came() -> None:
    denoiser = RecordingDenoiser(max_batch=2)
    loop = RenderLoop(denoiser)
    futures = [loop.submit(ask(name, steps=steps)) for name, steps in (("a", 1), ("b", 3), ("c", 2))]
    loop.step()
    assert [future.done() for future in futures] == [True, False, False]
    assert (loop.stats().active, loop.stats().waiting) == (1, 1)
    loop.step()  # c has a's slot
    assert (loop.stats().active, loop.stats().waiting) == (2, 0)
    assert run_out(loop) == 1
    assert denoiser.sizes("step") == [2, 2, 2]


def test_a_sample_that_comes_later_joins_the_batch_at_once() -> None:
    denoiser = RecordingDenoiser()
    loop = RenderLoop(denoiser)
    first = loop.submit(ask("a", steps=4))
    loop.step()
    second = loop.submit(ask("b", steps=2))
    run_out(loop)
    assert denoiser.sizes("step") == [1, 2, 2, 1]
    assert np.array_equal(first.result(0), alone("a", steps=4))
    assert np.array_equal(second.result(0), alone("b", steps=2))


def test_samples_that_finish_together_are_decoded_together() -> None:
    denoiser = RecordingDenoiser()
    loop = RenderLoop(denoiser)
    submitted(loop, "abc", steps=2)
    run_out(loop)
    assert denoiser.sizes("decode") == [3]


def test_prompts_and_edges_are_encoded_once_however_many_samples_use_them() -> None:
    denoiser = RecordingDenoiser()
    loop = RenderLoop(denoiser)
    for sample in range(6):
        loop.submit(ask("a", sample=sample, seed=sample))
    run_out(loop)
    loop.submit(ask("a", seed=99))
    run_out(loop)
    assert denoiser.sizes("encode_text") == [2]  # prompt and negative prompt
    assert denoiser.sizes("encode_hint") == [1]


@settings(max_examples=25)  # a hundred would take a quarter of a minute
@given(st.lists(st.tuples(st.integers(1, 6), st.booleans(), st.floats(0, 1)), min_size=1, max_size=12))
def test_no_sample_depends_on_what_shares_its_batch(wanted: list[tuple[int, bool, float]]) -> None:
    requests = [
        ask(chr(97 + i), steps=steps, eta=eta, size=(64, 128) if wide else (64, 64))
        for i, (steps, wide, eta) in enumerate(wanted)
    ]
    together = RenderLoop(FakeDenoiser(max_batch=3))
    futures = [together.submit(request) for request in requests]
    run_out(together)
    for request, future in zip(requests, futures, strict=True):
        single = RenderLoop(FakeDenoiser())
        expected = single.submit(request)
        run_out(single)
        assert np.array_equal(future.result(0), expected.result(0))


# -- shapes -----------------------------------------------------------------------------------------------------------


def test_shapes_take_turns() -> None:
    denoiser = RecordingDenoiser()
    loop = RenderLoop(denoiser)
    submitted(loop, "ab", steps=3)
    submitted(loop, "cd", steps=3, size=(64, 128))
    run_out(loop)
    assert denoiser.shapes == [(8, 8), (8, 16)] * 3
    assert denoiser.sizes("step") == [2] * 6


def test_a_stream_of_one_shape_does_not_starve_another() -> None:
    denoiser = RecordingDenoiser(max_batch=1)
    loop = RenderLoop(denoiser)
    rare = loop.submit(ask("rare", steps=5, size=(128, 64)))
    for number in range(40):
        loop.submit(ask(f"n{number}", steps=1))
    turns = 0
    while not rare.done():
        loop.submit(ask(f"more{turns}", steps=1))
        loop.step()
        turns += 1
    assert turns <= 2 * 5 + 1


def test_a_shape_that_comes_back_has_lost_nothing() -> None:
    loop = RenderLoop(FakeDenoiser())
    submitted(loop, "a")
    run_out(loop)
    (again,) = submitted(loop, "b")
    run_out(loop)
    assert np.array_equal(again.result(0), alone("b"))


def test_a_new_shape_does_not_overtake_those_that_wait() -> None:
    """It begins at the age of now, not at nothing."""
    denoiser = RecordingDenoiser()
    loop = RenderLoop(denoiser)
    submitted(loop, "a", steps=4)
    submitted(loop, "b", steps=4, size=(64, 128))
    loop.step()  # a's shape: b's is the next
    submitted(loop, "c", steps=4, size=(128, 64))
    loop.step()
    assert denoiser.shapes == [(8, 8), (8, 16)]


# -- cancelling, draining, handing back -------------------------------------------------------------------------------


def test_a_cancelled_job_ends_before_its_next_step_and_the_others_go_on() -> None:
    denoiser = RecordingDenoiser()
    loop = RenderLoop(denoiser)
    kept, cancelled = submitted(loop, "ab")
    loop.step()
    loop.cancel("b")
    run_out(loop)
    with pytest.raises(Cancelled, match="by the user"):
        cancelled.result(0)
    assert denoiser.sizes("step") == [2, 1, 1]
    assert np.array_equal(kept.result(0), alone("a"))


def test_a_waiting_job_can_be_cancelled_and_all_its_samples_go() -> None:
    denoiser = RecordingDenoiser(max_batch=1)
    loop = RenderLoop(denoiser)
    (first,) = submitted(loop, "a")
    samples = [loop.submit(ask("b", sample=sample, seed=sample)) for sample in range(3)]
    loop.step()
    loop.cancel("b")
    run_out(loop)
    assert first.result(0).any()
    assert all(isinstance(future.exception(0), Cancelled) for future in samples)
    assert denoiser.sizes("step") == [1, 1, 1]


def test_cancelling_what_is_not_here_is_no_error() -> None:
    loop = RenderLoop(FakeDenoiser())
    loop.cancel("unknown")
    (future,) = submitted(loop, "a")
    run_out(loop)
    assert future.done()
    assert future.exception(0) is None


def test_a_job_cancelled_by_all_its_users_alone_leaves_an_empty_loop() -> None:
    loop = RenderLoop(FakeDenoiser())
    submitted(loop, "ab")
    loop.step()
    loop.cancel("a")
    loop.cancel("b")
    assert not loop.step()
    assert (loop.stats().active, loop.stats().waiting) == (0, 0)


def test_draining_finishes_what_has_begun_and_hands_back_what_waits() -> None:
    loop = RenderLoop(FakeDenoiser(max_batch=1))
    begun, waiting = submitted(loop, "ab")
    loop.step()
    loop.drain()
    run_out(loop)
    assert np.array_equal(begun.result(0), alone("a"))
    with pytest.raises(HandedBack, match="stopping"):
        waiting.result(0)
    with pytest.raises(HandedBack, match="stopping"):
        loop.submit(ask("c")).result(0)


def test_handing_back_ends_everything_before_the_next_step() -> None:
    denoiser = RecordingDenoiser(max_batch=1)
    loop = RenderLoop(denoiser)
    futures = submitted(loop, "ab")
    loop.step()
    loop.hand_back_all()
    assert not loop.step()
    assert [type(future.exception(0)) for future in futures] == [HandedBack, HandedBack]
    assert denoiser.sizes("step") == [1]


def test_a_loop_that_is_stopped_hands_back_what_is_left() -> None:
    loop = RenderLoop(FakeDenoiser())
    futures = submitted(loop, "ab", steps=900)
    stop = threading.Event()
    stop.set()
    loop.run(stop)
    assert [type(future.exception(0)) for future in futures] == [HandedBack, HandedBack]


def test_a_sleeping_loop_wakes_for_new_samples_and_for_its_end() -> None:
    loop = RenderLoop(FakeDenoiser())
    stop = threading.Event()
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    try:
        assert all(future.result(10).any() for future in submitted(loop, "ab"))
    finally:
        stop.set()
        loop.wake()
        thread.join(10)
    assert not thread.is_alive()


def test_samples_come_from_many_threads() -> None:
    loop = RenderLoop(FakeDenoiser())
    stop = threading.Event()
    owner = threading.Thread(target=loop.run, args=(stop,))
    owner.start()
    found: dict[str, np.ndarray] = {}

    def render(name: str) -> None:
        found[name] = loop.submit(ask(name)).result(10)

    askers = [threading.Thread(target=render, args=(name,)) for name in "abcdefgh"]
    for thread in askers:
        thread.start()
    for thread in askers:
        thread.join(10)
    stop.set()
    loop.wake()
    owner.join(10)
    assert sorted(found) == list("abcdefgh")
    assert all(np.array_equal(picture, alone(name)) for name, picture in found.items())


# -- figures ----------------------------------------------------------------------------------------------------------


def test_stats_count_calls_samples_and_pictures() -> None:
    loop = RenderLoop(FakeDenoiser(max_batch=2))
    submitted(loop, "abc", steps=2)
    assert loop.stats().waiting == 3
    run_out(loop)
    stats = loop.stats()
    assert (stats.steps, stats.sample_steps, stats.images) == (4, 6, 3)
    assert stats.batch_sizes == {2: 2, 1: 2}
    assert stats.busy_seconds > 0
    assert (stats.waiting, stats.active, stats.busy_since) == (0, 0, None)


def test_a_turn_that_is_under_way_can_be_seen_from_outside() -> None:
    seen = []
    denoiser = RecordingDenoiser(before=lambda name, size: seen.append(loop.stats().busy_since))
    loop = RenderLoop(denoiser)
    submitted(loop, "a", steps=1)
    run_out(loop)
    assert all(since is not None for since in seen)
    assert loop.stats().busy_since is None
