"""Three real engine sets in one worker: each picture is the one that a worker which holds its set alone draws."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import load_model, numpy_helper, save_model

from engines.check.score import psnr
from jobs.errors import RenderFailed
from jobs.job import RenderJob
from jobs.settings import load_settings
from tests.engines.sets import copy_of_set, edit_manifest
from tests.jobs.rows import make_job
from tests.models import tiny_engine_set
from tests.worker.test_prepare import photograph, png
from worker.renderer import Renderer, RendererRefused, load_renderer

NAMES = ("default", "dark", "odd")
UNET = "unet.onnx"
LAST_WEIGHTS = {
    "clip": "layers.0.layer_norm1.weight",  # that of all norms, which are equal in a random model
    "hint": "embedding.conv_out.weight",
    "unet": "network.conv_out.weight",
}
ENOUGH_DB = 50.0


def another_model(folder: Path, factor: float) -> None:
    """Make the set in a folder another one: prompts, hints and predicted noise are so many times as large."""
    shas = {name: scaled(folder / f"{name}.onnx", tensor, factor) for name, tensor in LAST_WEIGHTS.items()}

    def change(manifest: dict[str, Any]) -> None:
        for name, sha in shas.items():
            manifest["components"][name]["stages"]["export"]["files"][f"{name}.onnx"] = sha

    edit_manifest(folder, change)


def scaled(path: Path, tensor: str, factor: float) -> str:
    """Multiply one tensor of a network; returns the file's SHA-256."""
    model = load_model(path)
    (weight,) = (one for one in model.graph.initializer if one.name.endswith(tensor))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(factor), weight.name))
    save_model(model, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three sets, two of them reached by links."""
    root = tmp_path_factory.mktemp("many")
    (root / "sets").mkdir()
    for name, factor in zip(NAMES, (1.0, 0.6, 1.4), strict=True):
        folder = copy_of_set(root / name, "onnxruntime")
        another_model(folder, factor)
        (root / "sets" / name).symlink_to(folder)
    return root / "sets"


def jobs(number: int = 6) -> list[RenderJob]:
    """In mixed order: equal pictures, prompts and seeds for different sets."""
    return [
        make_job(
            row,
            prompt=f"a house {row // 3}",
            seed=row // 3,
            image_resolution=64,
            ddim_steps=2 + row % 2,
            **({} if row % 3 == 0 else {"model": NAMES[row % 3]}),
        )
        for row in range(1, number + 1)
    ]


def load(folder: Path, **settings: Any) -> Renderer:
    return load_renderer(load_settings(engine_dir=str(folder), device="cpu", threads=1, **settings))


def drawn(renderer: Renderer, wanted: Sequence[RenderJob], *, width: int = 150) -> list[np.ndarray]:
    """The pictures of jobs from the left part of the photograph, which has 150x100 pixels."""
    photo = photograph()[:, :width]
    data, hint = png(photo), png(np.ascontiguousarray(photo[::-1, ::-1]))
    futures = []
    for job in wanted:
        control = {} if job.parameters.control_image is None else {"control_data": hint}
        futures.append(renderer.loop.submit(renderer.for_job(job).prepare(job, data, **control).specs[0]))
    while not all(future.done() for future in futures):
        renderer.loop.step()
    return [future.result(0) for future in futures]


@pytest.fixture(scope="module")
def alone(sets: Path) -> Mapping[str, np.ndarray]:
    """Each job's picture by a worker that holds its set alone."""
    pictures: dict[str, np.ndarray] = {}
    for name in NAMES:
        own = [job for job in jobs() if (job.parameters.model or "default") == name]
        renderer = load(sets / name)
        pictures |= zip([job.id for job in own], drawn(renderer, own), strict=True)
        renderer.close()
    return pictures


@pytest.mark.parametrize(
    ("settings", "there", "number"), [({}, 3, 6), ({"sets_resident": 2}, 2, 6), ({"low_vram": True}, 1, 3)]
)
def test_each_picture_is_that_of_a_worker_which_holds_its_set_alone(
    sets: Path, alone: Mapping[str, np.ndarray], settings: dict[str, Any], there: int, number: int
) -> None:
    renderer = load(sets, **settings)
    try:
        pictures = drawn(renderer, jobs(number))
        loads, stats = renderer.loop.loads(), renderer.loop.stats()
    finally:
        renderer.close()
    likeness = [psnr(alone[job.id], picture) for job, picture in zip(jobs(number), pictures, strict=True)]
    assert min(likeness) >= ENOUGH_DB, likeness
    assert len(loads.loaded) == there
    digests = {name: one.digest for name, one in renderer.sets.items()}
    assert sorted(digests) == sorted(NAMES)
    assert stats.images_by_set == dict.fromkeys(digests.values(), number // 3)
    assert (renderer.name, renderer.facts["sets"]) == ("default", digests)


def test_the_sets_differ_so_that_a_wrong_one_would_show(alone: Mapping[str, np.ndarray]) -> None:
    pictures = [alone[job.id] for job in jobs() if job.parameters.seed == 1]
    assert len(pictures) == 3
    assert all(psnr(one, other) < 40 for i, one in enumerate(pictures) for other in pictures[i + 1 :])


def test_hints_and_prompts_of_all_kinds_share_the_loop_of_two_sets_and_look_as_if_each_were_alone(
    sets: Path, tmp_path: Path
) -> None:
    """Two backends, of which one takes long prompts: every option that changes what a sample's batch is made of."""
    (tmp_path / "dark").symlink_to((sets / "dark").resolve())
    (tmp_path / "default").symlink_to(tiny_engine_set("torch", shapes=("64x64",), max_batch=2, context_chunks=8))
    kinds: list[dict[str, Any]] = [
        {},
        {"control": "none"},
        {"control_image": "file:///c.png"},
        {"control": "none", "control_image": "file:///c.png", "eta": 0.5},
        {"prompt": "a (red:1.4) house", "prompt_syntax": "weighted"},
        {"prompt": "a red house, " * 30, "long_prompts": "chunk", "control": "none"},
    ]
    same: dict[str, Any] = {"prompt": "a (red:1.4) house", "seed": 1, "image_resolution": 64, "ddim_steps": 2}
    models: tuple[dict[str, Any], ...] = ({}, {"model": "dark"})
    wanted = [
        make_job(row, **(same | kind | model))
        for row, (kind, model) in enumerate(((kind, model) for kind in kinds for model in models), start=1)
        if not (model and "long_prompts" in kind)
    ]
    together = load(tmp_path)
    pictures = drawn(together, wanted, width=100)
    together.close()
    for name in ("default", "dark"):
        renderer = load(tmp_path / name)
        likeness = [
            psnr(drawn(renderer, [job], width=100)[0], picture)
            for job, picture in zip(wanted, pictures, strict=True)
            if (job.parameters.model or "default") == name
        ]
        renderer.close()
        assert min(likeness) >= ENOUGH_DB, (name, likeness)
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)  # nothing was mistaken for something else


def test_one_set_that_is_damaged_refuses_the_start_and_is_named(sets: Path, tmp_path: Path) -> None:
    for name in NAMES[:2]:
        (tmp_path / name).symlink_to((sets / name).resolve())
    broken = copy_of_set(tmp_path / ".made", "onnxruntime")
    (tmp_path / "broken").symlink_to(broken)
    (broken / UNET).write_bytes(b"other bytes")
    with pytest.raises(RendererRefused, match=r"RENDER_ENGINE_DIR=.*made/set/unet.onnx was changed"):
        load(tmp_path)


def test_a_set_that_is_replaced_while_the_worker_runs_draws_nothing(sets: Path, tmp_path: Path) -> None:
    """`engines build` puts a new set in the place of the old one, which the worker may not have loaded yet."""
    for name in NAMES:
        shutil.copytree((sets / name).resolve(), tmp_path / name)
    renderer = load(tmp_path)
    shutil.rmtree(tmp_path / "dark")
    shutil.copytree(tmp_path / "odd", tmp_path / "dark")
    others = [job for job in jobs() if job.parameters.model != "dark"]
    assert len(drawn(renderer, others)) == len(others)
    with pytest.raises(RenderFailed, match=r"dark/\S+ was changed after it was checked at the start; restart"):
        drawn(renderer, [job for job in jobs() if job.parameters.model == "dark"])
    renderer.close()


def test_two_names_of_one_set_share_it(sets: Path, tmp_path: Path) -> None:
    for name in ("current", "ink"):
        (tmp_path / name).symlink_to((sets / "dark").resolve())
    renderer = load(tmp_path)
    renderer.close()
    assert len({one.digest for one in renderer.sets.values()}) == 1
    assert renderer.for_job(make_job()).digest == renderer.digest
