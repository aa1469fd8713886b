from __future__ import annotations

import io
import threading

import numpy as np
import pytest
from PIL import Image

from jobs.settings import load_settings
from tests.jobs.rows import make_job
from worker.fake import FakeTiming, FakeTokenizer
from worker.renderer import RendererRefused, load_renderer


def picture() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_fake_renders_pictures_that_depend_on_the_seed_alone() -> None:
    renderer = load_renderer(load_settings(engine_dir="fake:max_batch=2"))
    jobs = [make_job(row, seed=seed, image_resolution=64, ddim_steps=3) for row, seed in ((1, 5), (2, 5), (3, 6))]
    prepared = [renderer.prepare(job, picture()) for job in jobs]
    stop = threading.Event()
    thread = threading.Thread(target=renderer.loop.run, args=(stop,))
    thread.start()
    same, again, other = (renderer.loop.submit(one.specs[0]).result(10) for one in prepared)
    stop.set()
    renderer.loop.wake()
    thread.join()
    assert same.shape == (64, 64, 3)
    assert np.array_equal(same, again)
    assert not np.array_equal(same, other)
    assert renderer.digest == "fake"


def test_several_fake_sets_have_names_and_pictures_of_their_own() -> None:
    renderer = load_renderer(load_settings(engine_dir="fake:sets=3,load_ms=1", sets_resident=2))
    assert list(renderer.sets) == ["default", "fake-2", "fake-3"]
    jobs = [make_job(1, seed=5, image_resolution=64, ddim_steps=3, model=name) for name in renderer.sets]
    specs = [renderer.for_job(job).prepare(job, picture()).specs[0] for job in jobs]
    futures = [renderer.loop.submit(spec) for spec in specs]
    while not all(future.done() for future in futures):
        renderer.loop.step()
    one, two, three = (future.result(0) for future in futures)
    assert not np.array_equal(one, two)
    assert not np.array_equal(two, three)
    assert len(renderer.loop.loads().loaded) == 2


def test_timing_is_read_and_nonsense_is_refused() -> None:
    assert FakeTiming.parse("") == FakeTiming(0, 0, 8)
    assert FakeTiming.parse("step_ms=20,max_batch=4") == FakeTiming(20, 0, 4)
    for text in ("step_ms", "step_ms=", "speed=3", "step_ms=-1", "step_ms=1.5"):
        with pytest.raises(RendererRefused, match="step_ms=N"):
            load_renderer(load_settings(engine_dir=f"fake:{text}"))


def test_long_prompts_are_cut_as_by_the_real_tokenizer() -> None:
    tokens = FakeTokenizer().encode(" ".join(str(i) for i in range(100)))
    assert tokens.ids.shape == (77,)
    assert tokens.cut.split()[0] == "75"


@pytest.mark.parametrize("engine_dir", ["fake", "/fake:", "./fake:x"])
def test_only_the_prefix_chooses_the_fake(engine_dir: str) -> None:
    with pytest.raises(RendererRefused, match="RENDER_ENGINE_DIR"):
        load_renderer(load_settings(engine_dir=engine_dir))
