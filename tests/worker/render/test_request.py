"""A request goes from state to state in one direction, and ends once."""

from __future__ import annotations

import itertools
from typing import Any, cast

import numpy as np
import pytest

from jobs.errors import Cancelled, RenderFailed
from tests.worker.samples import sample_spec
from worker.render.request import ImageRequest, RequestState, fail_all

TRAJECTORY = cast(Any, object())
PICTURE = np.zeros((64, 64, 3), np.uint8)
MOVES = {
    "start": lambda request: request.start(TRAJECTORY),
    "start_decoding": lambda request: request.start_decoding(),
    "succeed": lambda request: request.succeed(PICTURE),
    "fail": lambda request: request.fail(RenderFailed("NaN")),
}
ALLOWED = {
    (RequestState.WAITING, "start"): RequestState.RUNNING,
    (RequestState.RUNNING, "start_decoding"): RequestState.DECODING,
    (RequestState.DECODING, "succeed"): RequestState.ENDED,
    (RequestState.WAITING, "fail"): RequestState.ENDED,
    (RequestState.RUNNING, "fail"): RequestState.ENDED,
    (RequestState.DECODING, "fail"): RequestState.ENDED,
}


def request_in(state: RequestState) -> ImageRequest:
    request = ImageRequest(sample_spec())
    ways: dict[RequestState, tuple[str, ...]] = {
        RequestState.WAITING: (),
        RequestState.RUNNING: ("start",),
        RequestState.DECODING: ("start", "start_decoding"),
        RequestState.ENDED: ("start", "start_decoding", "succeed"),
    }
    for move in ways[state]:
        MOVES[move](request)
    assert request.state is state
    return request


@pytest.mark.parametrize(("state", "move"), list(itertools.product(RequestState, MOVES)))
def test_every_move_is_allowed_or_refused_and_a_refused_one_changes_nothing(state: RequestState, move: str) -> None:
    request = request_in(state)
    if (state, move) in ALLOWED:
        MOVES[move](request)
        assert request.state is ALLOWED[state, move]
        return
    with pytest.raises(AssertionError, match=f"a request cannot go from {state.value} to"):
        MOVES[move](request)
    assert request.state is state


def test_the_future_ends_with_the_request() -> None:
    picture, failed = ImageRequest(sample_spec()), ImageRequest(sample_spec())
    assert not picture.future.cancel()
    assert not picture.future.done()
    picture.start(TRAJECTORY)
    picture.start_decoding()
    picture.succeed(PICTURE)
    failed.fail(RenderFailed("NaN"))
    assert picture.future.result(0) is PICTURE
    with pytest.raises(RenderFailed):
        failed.future.result(0)


def test_a_request_has_a_trajectory_from_its_start_on() -> None:
    request = ImageRequest(sample_spec())
    with pytest.raises(AssertionError, match="has not started"):
        _ = request.trajectory
    request.start(TRAJECTORY)
    assert request.trajectory is TRAJECTORY


def test_failing_all_leaves_those_alone_that_have_ended() -> None:
    requests = [request_in(RequestState.ENDED), request_in(RequestState.RUNNING)]
    fail_all(requests, Cancelled("cancelled by the user"))
    assert requests[0].future.result(0) is PICTURE
    assert isinstance(requests[1].future.exception(0), Cancelled)
