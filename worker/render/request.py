"""ImageSpec, what to draw; and ImageRequest, one sample on its way through the loop."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jobs.errors import RenderError

if TYPE_CHECKING:
    from worker.render.trajectory import Trajectory

Shape = tuple[int, int]  # height and width in pixels


class BucketKey(NamedTuple):
    """What requests must have in common to share an engine call."""

    engine_set: str  # digest
    height: int  # in pixels
    width: int
    tokens: int  # of each prompt


@dataclass(frozen=True, eq=False)
class ImageSpec:
    """Everything that decides how one picture looks: the same spec gives the same picture."""

    job_id: str
    sample: int  # index within the job
    # The hint: uint8 [H, W], edges of 0 or 255; or [H, W, 3], a picture that is the hint itself, in RGB. H and W are in
    # pixels, multiples of 64.
    edges: np.ndarray
    cond_ids: np.ndarray  # int64 [77 * chunks]
    uncond_ids: np.ndarray  # int64 [77 * chunks]
    seed: int  # this sample's own: the job's seed + sample
    steps: int
    eta: float
    scale: float  # guidance
    cond_control_scales: tuple[float, ...]  # 13
    uncond_control_scales: tuple[float, ...]  # 13
    cond_weights: np.ndarray | None = None  # float32 [77 * chunks], of the tokens; None: all are 1
    uncond_weights: np.ndarray | None = None
    chunks: int = 1  # of both prompts; the text encoder takes one by one
    engine_set: str = ""  # digest of the set that draws it

    @property
    def shape(self) -> Shape:
        """Height and width in pixels."""
        return int(self.edges.shape[0]), int(self.edges.shape[1])

    @property
    def bucket_key(self) -> BucketKey:
        """Requests with the same key can share an engine call."""
        return BucketKey(self.engine_set, *self.shape, len(self.cond_ids))


class RequestState(Enum):
    """Where a request is. It can fail in every state, and ends once."""

    WAITING = "waiting"  # for a place in a batch
    RUNNING = "running"  # encoded; takes one DDIM step a turn
    DECODING = "decoding"  # has taken every step; its picture is being decoded, or copied to the host
    ENDED = "ended"  # its future holds a picture or an error


_NEXT_STATES = {
    RequestState.WAITING: {RequestState.RUNNING, RequestState.ENDED},
    RequestState.RUNNING: {RequestState.DECODING, RequestState.ENDED},
    RequestState.DECODING: {RequestState.ENDED},
    RequestState.ENDED: set[RequestState](),
}


class ImageRequest:
    """One sample: its spec, its state, and the future that its submitter waits for.

    The future cannot be cancelled; the job can (RenderLoop.cancel).
    """

    def __init__(self, spec: ImageSpec) -> None:
        self.spec = spec
        self.future: Future[np.ndarray] = Future()
        self.future.set_running_or_notify_cancel()
        self._state = RequestState.WAITING
        self._trajectory: Trajectory | None = None

    @property
    def state(self) -> RequestState:
        """Where the request is."""
        return self._state

    @property
    def ended(self) -> bool:
        """The future holds a picture or an error."""
        return self._state is RequestState.ENDED

    @property
    def trajectory(self) -> Trajectory:
        """Its latents and its place in the schedule, from `start` on."""
        assert self._trajectory is not None, "the request has not started"
        return self._trajectory

    def start(self, trajectory: Trajectory) -> None:
        """WAITING -> RUNNING."""
        self._move_to(RequestState.RUNNING)
        self._trajectory = trajectory

    def start_decoding(self) -> None:
        """RUNNING -> DECODING."""
        self._move_to(RequestState.DECODING)

    def succeed(self, picture: np.ndarray) -> None:
        """DECODING -> ENDED, with RGB uint8 [H, W, 3]."""
        assert self._state is RequestState.DECODING, f"a request cannot go from {self._state.value} to a picture"
        self._move_to(RequestState.ENDED)
        self.future.set_result(picture)

    def fail(self, error: RenderError) -> None:
        """Any state -> ENDED, with an error."""
        self._move_to(RequestState.ENDED)
        self.future.set_exception(error)

    def _move_to(self, state: RequestState) -> None:
        assert state in _NEXT_STATES[self._state], f"a request cannot go from {self._state.value} to {state.value}"
        self._state = state


def fail_all(requests: Iterable[ImageRequest], error: RenderError) -> None:
    """End with this error all requests that have not ended."""
    for request in requests:
        if not request.ended:
            request.fail(error)
