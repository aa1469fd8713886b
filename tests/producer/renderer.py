"""What a worker does to the ledger and to the output folder, without rendering."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Collection
from typing import Any

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from jobs.job import RenderJob, RenderResult
from jobs.ledger.ledger import Ledger
from jobs.storage.file import FileStore

WORKER = "test@worker"


SETS = ("0" * 64, "some-model"), ("1" * 64, "another-model")


def render_batch(
    ledger: Ledger,
    batch: str,
    *,
    failing: Collection[int] = (),
    error: str = "no such picture",
    others: Collection[int] = (),
) -> None:
    """End every queued job of a batch: done, or failed for the rows named. A second engine set draws `others`."""
    for line in list(ledger.states(batch)):
        job = ledger.job(batch, line.id)
        if line.state == "queued" and job is not None:
            ledger.start(job, worker=WORKER)
            common = _common(job, *SETS[job.row in others])
            ledger.finish(_failed(error, common) if job.row in failing else _done(job, common))


def png(color: str, size: tuple[int, int] = (96, 64), render: str | None = None) -> bytes:
    """A picture of one colour; `render` is the text chunk that workers write."""
    buffer, texts = io.BytesIO(), PngInfo()
    if render is not None:
        texts.add_itxt("render", render)
    Image.new("RGB", size, color).save(buffer, "PNG", pnginfo=texts)
    return buffer.getvalue()


def _failed(error: str, common: dict[str, Any]) -> RenderResult:
    return RenderResult(**common, state="failed", error_kind="source_not_found", error=error)


def _done(job: RenderJob, common: dict[str, Any]) -> RenderResult:
    writer = FileStore()
    samples = tuple(job.sample_uri(sample) for sample in range(job.parameters.num_samples))
    for uri in samples:
        writer.write(uri, _sample(job), "image/png")
    writer.write(job.canny_uri, png("black"), "image/png")
    result = RenderResult(
        **common, state="done", samples=samples, canny=job.canny_uri, width=96, height=64, seconds={"render": 0.5}
    )
    writer.write(job.sidecar_uri, result.model_dump_json().encode(), "application/json")
    return result


def _sample(job: RenderJob) -> bytes:
    text = json.dumps(job.parameters.model_dump())
    format_ = job.parameters.format
    if format_ == "png":
        return png("teal", render=text)
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[ExifTags.Base.ImageDescription] = text
    Image.new("RGB", (96, 64), "teal").save(buffer, format_.upper(), exif=exif)
    return buffer.getvalue()


def _common(job: RenderJob, engine_set: str, model: str) -> dict[str, Any]:
    return {
        "id": job.id,
        "batch": job.batch,
        "row": job.row,
        "image": job.parameters.image,
        "prompt": job.parameters.prompt,
        "seed": job.seed,
        "attempts": 1,
        "worker": WORKER,
        "engine_set": engine_set,
        "model": job.parameters.model,
        "model_name": model,
        "finished_at": time.time() - 1,
    }
