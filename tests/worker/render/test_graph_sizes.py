"""When a graph of one more batch size pays: exact, without a device and without a clock."""

from __future__ import annotations

import pytest

from worker.render.graph_sizes import CAPTURE_SECONDS, Crowd, Demand, GraphSizes
from worker.render.memory_limit import WAIT_SECONDS
from worker.render.request import BucketKey

KEY = BucketKey("set", 512, 512, 77)
OTHER = BucketKey("set", 512, 768, 77)
SIZES = tuple(range(1, 9))
ALONE = Crowd(requests=1, buckets=1)


def seconds(size: int) -> float:
    """Of a step, as on an H200 at 512x512."""
    return 0.002 + 0.0044 * size


def sizes(*, timed: tuple[int, ...] = (), key: BucketKey = KEY) -> GraphSizes:
    """A policy that has timed steps of these sizes."""
    policy = GraphSizes()
    for size in timed:
        policy.took(key, size, seconds(size))
    return policy


def choose(policy: GraphSizes, wanted: int, *graphs: int, crowd: Crowd = ALONE, key: BucketKey = KEY) -> int:
    return policy.choose(key, demand=Demand(wanted), allowed=SIZES, graphs=graphs, crowd=crowd)


def turns_until_captured(policy: GraphSizes, wanted: int, *graphs: int) -> tuple[int, int]:
    """How many turns run in the graphs that there are before another is to be captured, and which."""
    for turns in range(10_000):
        size = choose(policy, wanted, *graphs)
        if size not in graphs:
            return turns, size
    raise AssertionError("never")


# -- the first graph of a bucket ---------------------------------------------------------------------------------------


def test_a_sample_that_is_alone_gets_a_graph_of_its_own_size() -> None:
    assert choose(sizes(), 1) == 1
    assert choose(sizes(), 3, crowd=Crowd(3, 1)) == 3


def test_jobs_that_are_being_prepared_count_since_they_come_soon() -> None:
    assert choose(sizes(), 1, crowd=Crowd(16, 1)) == 8


def test_where_everything_is_queued_the_first_graph_is_a_full_batch() -> None:
    assert choose(sizes(), 8, crowd=Crowd(400, 5)) == 8


def test_among_several_sizes_it_is_a_bucket_s_share_of_the_crowd_and_half_as_much_again() -> None:
    """The worker takes more jobs from now on. How many of this size have come so far means little."""
    assert choose(sizes(), 2, crowd=Crowd(32, 5)) == 8
    assert choose(sizes(), 1, crowd=Crowd(16, 5)) == choose(sizes(), 4, crowd=Crowd(16, 5)) == 5
    assert choose(sizes(), 1, crowd=Crowd(16, 9)) == 3


def test_what_earlier_workers_used_is_captured_first() -> None:
    policy = sizes()
    policy.prefer(KEY, 6)
    assert choose(policy, 1, crowd=Crowd(32, 5)) == 6
    assert choose(policy, 1, crowd=Crowd(16, 5), key=OTHER) == 5


def test_where_earlier_workers_drew_lone_samples_a_crowd_gets_a_graph_of_its_own_size() -> None:
    policy = sizes()
    policy.prefer(KEY, 1)
    assert choose(policy, 1) == 1
    assert choose(policy, 8, crowd=Crowd(16, 1)) == 8
    assert choose(policy, 3, crowd=Crowd(16, 5)) == 5
    policy.prefer(KEY, 4)
    assert choose(policy, 8, crowd=Crowd(16, 1)) == choose(policy, 3, crowd=Crowd(16, 5)) == 4


def test_only_sizes_that_engines_have_are_captured() -> None:
    policy = GraphSizes()
    assert policy.choose(KEY, demand=Demand(3), allowed=(1, 2, 4, 8), graphs=(), crowd=ALONE) == 4
    assert policy.choose(KEY, demand=Demand(5), allowed=(1, 2), graphs=(), crowd=ALONE) == 2


# -- renting and buying ------------------------------------------------------------------------------------------------


def test_the_graph_that_takes_least_for_each_request_is_used() -> None:
    """Two of three step for 10.8 ms, 5.4 each; all three with one row of padding for 19.6 ms, 6.5 each."""
    assert [choose(sizes(timed=(2, 4)), wanted, 2, 4) for wanted in (1, 2, 3, 4, 8)] == [2, 2, 2, 4, 4]
    assert [choose(sizes(timed=(1, 8)), wanted, 1, 8) for wanted in (1, 5, 6, 8)] == [1, 1, 8, 8]


def test_a_tail_is_padded_until_the_padding_has_cost_a_capture() -> None:
    """Two samples in a graph of eight waste 26.4 ms a step, so after 38 steps a graph of two would have paid."""
    policy = sizes(timed=(2, 8))
    wasted = seconds(8) - seconds(2)
    turns, size = turns_until_captured(policy, 2, 8)
    assert size == 2
    assert turns * wasted < CAPTURE_SECONDS <= (turns + 1) * wasted + 1e-9


def test_more_than_fit_in_a_graph_wait_until_the_smaller_batches_have_cost_a_capture() -> None:
    policy = sizes(timed=(4, 8))
    lost = 8 * (seconds(4) / 4 - seconds(8) / 8)
    turns, size = turns_until_captured(policy, 8, 4)
    assert size == 8
    assert turns * lost / 2 < CAPTURE_SECONDS <= (turns + 1) * lost / 2 + 1e-9  # four are served a turn


def test_one_size_that_serves_several_tails_is_captured_rather_than_one_for_each() -> None:
    policy, graphs, captured = sizes(timed=(1, 8)), [8], []
    for turn in range(400):
        size = choose(policy, 2 + turn % 3, *graphs)  # 2, 3, 4, 2, ...
        if size not in graphs:
            graphs.append(size)
            captured.append(size)
            policy.captured(KEY, size, 1.0)
    assert captured == [2]


def test_what_the_waiting_requests_will_save_counts_too() -> None:
    """A burst after a lone job: 8,000 sample-steps wait, and a graph of eight saves 1.75 ms of each."""
    gain = seconds(1) - seconds(8) / 8
    for waiting, size in ((8000, 8), (int(0.99 / gain), 1), (int(1.01 / gain) + 1, 8)):
        demand = Demand(requests=8, sample_steps=waiting)
        policy = sizes(timed=(1, 8))
        assert policy.choose(KEY, demand=demand, allowed=SIZES, graphs=(1,), crowd=ALONE) == size


def test_nothing_is_captured_on_a_guess_before_a_step_was_timed() -> None:
    policy = sizes()
    assert {choose(policy, 1, 8) for _ in range(1000)} == {8}


@pytest.mark.parametrize(("one", "eight"), [(0.0065, 0.0378), (0.00424, 0.014), (0.0043, 0.0064)])
@pytest.mark.parametrize("timed", [1, 8])
def test_a_guess_from_one_timed_size_does_not_put_a_capture_off_for_long(timed: int, one: float, eight: float) -> None:
    """Of an H200 at 512x512 and at 256x384, and of a device that hardly takes longer for eight samples than for one."""
    policy, missing = GraphSizes(), 9 - timed
    policy.took(KEY, timed, {1: one, 8: eight}[timed])
    turns, size = turns_until_captured(policy, missing, timed)
    lost_in_a_turn = one - eight / 8 if timed == 1 else eight - one
    assert size == missing
    assert turns * lost_in_a_turn < 2 * CAPTURE_SECONDS


def test_cheap_captures_are_made_sooner() -> None:
    dear, cheap = sizes(timed=(2, 8)), sizes(timed=(2, 8))
    dear.captured(KEY, 8, 2.0)
    cheap.captured(KEY, 8, 0.2)
    assert turns_until_captured(cheap, 2, 8)[0] * 9 < turns_until_captured(dear, 2, 8)[0]


def test_never_more_is_lost_than_what_the_captures_cost_twice() -> None:
    """Whatever comes: what is wasted before a capture is at most that capture, for each size that is ever captured."""
    policy, graphs, lost = sizes(timed=(1, 8)), [8], 0.0
    arrivals = [1 + (turn * turn + 3 * turn) % 8 for turn in range(3000)]
    for wanted in arrivals:
        size = choose(policy, wanted, *graphs)
        if size not in graphs:
            graphs.append(size)
            policy.captured(KEY, size, CAPTURE_SECONDS)
        served = min(size, wanted)
        lost += seconds(size) - served * seconds(wanted) / wanted
    assert lost <= len(graphs) * CAPTURE_SECONDS + CAPTURE_SECONDS


# -- while idle --------------------------------------------------------------------------------------------------------


def test_an_idle_worker_captures_what_would_have_saved_a_tenth_of_a_capture() -> None:
    policy = sizes(timed=(1, 8))
    for _ in range(3):
        choose(policy, 1, 8)
    assert policy.worth_capturing(KEY, graphs={8}, largest=8) is None
    choose(policy, 1, 8)
    assert policy.worth_capturing(KEY, graphs={8}, largest=8) == 1


def test_after_a_capture_only_what_is_missed_beside_it_counts() -> None:
    policy = sizes(timed=(1, 8))
    for wanted in (1, 1, 7, 7) * 15:
        choose(policy, wanted, 8)
    assert policy.worth_capturing(KEY, graphs={8}, largest=8) == 1
    policy.captured(KEY, 1, 0.5)
    assert policy.worth_capturing(KEY, graphs={1, 8}, largest=8) == 7
    policy.captured(KEY, 7, 0.5)
    assert policy.worth_capturing(KEY, graphs={1, 7, 8}, largest=8) is None


def test_an_idle_worker_prepares_a_full_batch_of_each_size_that_it_draws() -> None:
    policy = sizes(timed=(1,))
    policy.prefer(OTHER, 1)  # known, and never drawn here
    choose(policy, 1, 1)
    assert policy.worth_capturing(KEY, graphs={1}, largest=8) == 8
    assert policy.worth_capturing(KEY, graphs={1, 8}, largest=8) is None
    assert policy.worth_capturing(KEY, graphs=set(), largest=8) is None  # they made room for something
    assert policy.worth_capturing(OTHER, graphs={1}, largest=8) is None


# -- memory ------------------------------------------------------------------------------------------------------------


def test_a_size_that_did_not_fit_is_not_asked_for_again_nor_any_larger_one() -> None:
    policy = sizes(timed=(2,))
    policy.too_large(KEY, 6)
    policy.prefer(KEY, 7)
    assert choose(policy, 8, crowd=Crowd(400, 5)) == 5
    assert {choose(policy, 8, 2) for _ in range(2000)} <= {2, 3, 4, 5}
    assert choose(policy, 8, crowd=Crowd(400, 5), key=OTHER) == 8
    assert not policy.fits(KEY, 6)


def test_memory_that_was_too_short_is_not_remembered_for_ever() -> None:
    clock = [0.0]
    policy = GraphSizes(lambda: clock[0])
    for wait in (WAIT_SECONDS, 2 * WAIT_SECONDS, 4 * WAIT_SECONDS):
        policy.too_large(KEY, 6)
        policy.too_large(KEY, 4)  # of the same shortage
        clock[0] += wait - 1
        assert choose(policy, 8) == 3
        clock[0] += 1
        assert choose(policy, 8) == 8


def test_a_single_sample_is_always_tried() -> None:
    policy = sizes()
    policy.too_large(KEY, 1)
    assert choose(policy, 1) == 1
