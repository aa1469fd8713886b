"""Pictures from an engine set, as a worker draws them."""

import hashlib
import sys
from concurrent.futures import Future
from pathlib import Path

import cv2
import numpy as np
from render import Request

from jobs.job import RenderJob, RenderParameters
from jobs.settings import load_settings
from worker.renderer import load_renderer


class EngineRenderer:
    """A worker's renderer on an engine set: the edges, tokens, loop, engines and decoding of the product.

    Pictures are kept in a folder and not drawn again by the next run on the same set.
    """

    def __init__(self, engine_set: Path, kept: Path) -> None:
        self.renderer = load_renderer(load_settings(engine_dir=str(engine_set)))
        self.engine_set = engine_set
        self.loop, self.digest, self.drawn = self.renderer.loop, self.renderer.digest, 0
        self.folder = kept / self.digest[:16]
        self.folder.mkdir(parents=True, exist_ok=True)

    def render(self, requests: list[Request]) -> list[np.ndarray]:
        """uint8 RGB [H, W, 3] for each request, in order."""
        paths = [self._submit(request) for request in requests]
        while self.loop.step():
            pass
        return [_read(path) for path in paths]

    def fresh(self, requests: list[Request]) -> list[np.ndarray]:
        """As `render`, but drawn now and not kept."""
        prepared = []
        for request in requests:
            data = cv2.imencode(".png", request.image[..., ::-1])[1].tobytes()
            job = RenderJob.create(_parameters(request, data), batch="evaluate", row=1, output=str(self.folder))
            prepared.append(self.renderer.prepare(job, data).specs[0])
        futures = [self.loop.submit(one) for one in prepared]
        while self.loop.step():
            pass
        return [future.result() for future in futures]

    def _submit(self, request: Request) -> Path:
        """Queues what is not there yet; returns where it will be."""
        data = cv2.imencode(".png", request.image[..., ::-1])[1].tobytes()
        job = RenderJob.create(_parameters(request, data), batch="evaluate", row=1, output=str(self.folder))
        path = self.folder / f"{job.id}.png"
        if not path.exists():
            future = self.loop.submit(self.renderer.prepare(job, data).specs[0])
            future.add_done_callback(lambda done: self._keep(path, done))
        return path

    def _keep(self, path: Path, done: Future[np.ndarray]) -> None:
        path.write_bytes(cv2.imencode(".png", done.result()[..., ::-1])[1].tobytes())
        self.drawn += 1
        if self.drawn % 20 == 0:
            print(f"{self.drawn} pictures", file=sys.stderr, flush=True)


def _read(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path))
    assert picture is not None, path
    return np.ascontiguousarray(picture[..., ::-1])


def _parameters(request: Request, data: bytes) -> RenderParameters:
    return RenderParameters(
        image=f"{hashlib.sha256(data).hexdigest()}.png",
        prompt=request.prompt,
        image_resolution=min(request.image.shape[:2]),
        ddim_steps=request.steps,
        guess_mode=request.guess,
        strength=request.strength,
        scale=request.scale,
        seed=request.seed,
        eta=request.eta,
    )
