"""Which engine set draws a job, and what becomes of a job whose set this worker does not hold."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from engines.build.staging import BUILDING
from engines.errors import EngineSetRefused
from engines.manifest import MANIFEST
from jobs.errors import EngineSetNotHeld
from jobs.job import RenderJob
from jobs.ledger.records import WorkerFacts
from tests.jobs.rows import enqueue, make_job
from tests.worker.bench import Bench
from tests.worker.stub_renderer import stub_renderer
from worker.outcome import Outcome
from worker.renderer import Renderer
from worker.set_folders import set_folders

ONE, TWO, THREE = "11" * 32, "22" * 32, "33" * 32


def holding(**digests: str) -> Renderer:
    """The renderer of a worker that holds sets of these names."""
    base = stub_renderer()
    others = {
        name: replace(base, digest=digest, name=name, model_name=f"{name}-v1") for name, digest in digests.items()
    }
    first = others.get("default", next(iter(others.values())))
    return replace(first, others=others) if len(others) > 1 else first


def job_for(model: str | None = None, engine_set: str | None = None, row: int = 1) -> RenderJob:
    parameters = make_job(row, **({} if model is None else {"model": model})).parameters
    return RenderJob.create(parameters, batch="b", row=row, output="file:///out", engine_set=engine_set)


@pytest.mark.parametrize(
    ("sets", "model", "engine_set", "drawn_by"),
    [
        ({"anime": ONE}, None, None, ONE),
        ({"anime": ONE}, "anime", None, ONE),
        ({"anime": ONE, "default": TWO}, None, None, TWO),
        ({"anime": ONE, "default": TWO}, "anime", None, ONE),
        ({"anime": ONE, "default": TWO}, None, ONE[:8], ONE),
        ({"anime": ONE, "default": TWO}, "anime", ONE[:12], ONE),
        ({"anime": ONE, "current": ONE}, None, None, ONE),  # two names of one set
    ],
)
def test_a_job_is_drawn_by_the_set_that_it_names_or_by_the_only_or_default_one(
    sets: dict[str, str], model: str | None, engine_set: str | None, drawn_by: str
) -> None:
    assert holding(**sets).for_job(job_for(model, engine_set)).digest == drawn_by


@pytest.mark.parametrize(
    ("sets", "model", "engine_set", "said"),
    [
        ({"anime": ONE}, "photo", None, "asks for model 'photo', and this worker holds anime (111111111111)"),
        ({"anime": ONE, "ink": TWO}, "photo", None, "holds anime (111111111111), ink (222222222222)"),
        ({"anime": ONE, "ink": TWO}, None, None, "holds several, none of them called 'default': anime (111111111111)"),
        ({"anime": ONE, "ink": TWO}, None, THREE[:8], f"kept to engine set {THREE[:8]}, and this worker holds anime"),
        ({"anime": ONE, "ink": TWO}, "anime", TWO[:8], "this worker's model 'anime' is 111111111111"),
        ({"Anime": ONE}, "anime", None, "holds Anime (111111111111)"),
    ],
)
def test_a_set_that_is_not_held_is_the_workers_refusal_with_the_names_that_are_held(
    sets: dict[str, str], model: str | None, engine_set: str | None, said: str
) -> None:
    with pytest.raises(EngineSetNotHeld) as caught:
        holding(**sets).for_job(job_for(model, engine_set))
    assert said in str(caught.value)
    assert (caught.value.fault, caught.value.scope) == ("worker", "settings")


def test_a_worker_holds_a_job_s_set_or_does_not() -> None:
    renderer = holding(anime=ONE, ink=TWO)
    assert [renderer.holds(job_for(model)) for model in ("ink", "Ink", None)] == [True, False, False]


def test_a_hundred_names_are_not_all_said() -> None:
    names = {f"model-{n}": f"{n:064x}" for n in range(100)}
    with pytest.raises(EngineSetNotHeld, match="and 80 more"):
        holding(**names).for_job(job_for("photo"))


def test_a_folder_that_may_not_be_entered_holds_no_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the lost+found of a volume's root, for any user but root."""
    for name in ("anime", "lost+found"):
        (tmp_path / name).mkdir()
        (tmp_path / name / MANIFEST).write_text("{}")
    is_file = Path.is_file

    def as_a_user(path: Path) -> bool:
        if path.parent in closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return is_file(path)

    closed = {tmp_path / "lost+found"}
    monkeypatch.setattr(Path, "is_file", as_a_user)
    assert list(set_folders(tmp_path)) == ["anime"]
    closed.add(tmp_path)
    with pytest.raises(EngineSetRefused, match=rf"{tmp_path}/{MANIFEST} cannot be read: Permission denied"):
        set_folders(tmp_path)


# -- a worker's jobs ---------------------------------------------------------------------------------------------------


def test_a_result_names_the_set_that_drew_the_job(bench: Bench) -> None:
    bench.runner = replace(bench.runner, renderer=with_loop(bench, holding(anime=ONE, default=TWO)))
    jobs = [job_for(model, row=row) for row, model in enumerate(["anime", None, "default"], start=1)]
    enqueue(bench.ledger, jobs)
    assert [bench.run(job) for job in jobs] == [Outcome.ENDED] * 3
    drawn = [(bench.result(job).engine_set, bench.result(job).model_name) for job in jobs]
    assert drawn == [(ONE, "anime-v1"), (TWO, "default-v1"), (TWO, "default-v1")]
    sets = bench.ledger.engine_sets("b").sets
    assert {(of.engine_set, of.model, of.jobs) for of in sets} == {(ONE, "anime-v1", 1), (TWO, "default-v1", 2)}


def test_a_model_that_no_live_worker_holds_fails_the_job_with_the_names_before_anything_is_fetched(
    bench: Bench,
) -> None:
    bench.runner = replace(bench.runner, renderer=with_loop(bench, holding(anime=ONE, ink=TWO)))
    job = job_for("photo")
    enqueue(bench.ledger, [job])
    assert bench.run(job) is Outcome.ENDED
    result = bench.result(job)
    assert (result.state, result.error_kind, result.engine_set) == ("failed", "engine_set_not_held", None)
    assert "asks for model 'photo', and this worker holds anime (111111111111), ink (222222222222)" in (
        result.error or ""
    )
    assert bench.fetched == 0


def test_a_model_that_another_live_worker_may_hold_gives_the_job_back_at_no_attempt(bench: Bench) -> None:
    bench.ledger.beat("other", in_flight=(), lease_seconds=60, facts=WorkerFacts(settings="other"))
    job = job_for("photo")
    enqueue(bench.ledger, [job])
    assert bench.run(job) is Outcome.DELAYED
    assert bench.state(job) == ("queued", 0)


def with_loop(bench: Bench, renderer: Renderer) -> Renderer:
    """The same sets on the loop that the bench runs."""
    loop = bench.runner.renderer.loop
    others = {name: replace(one, loop=loop) for name, one in renderer.others.items()}
    return replace(renderer, loop=loop, others=others)


# -- folders -----------------------------------------------------------------------------------------------------------


def a_set(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text("{}")
    return folder


def test_a_set_has_its_folders_name_and_a_folder_of_sets_those_of_its_sub_folders(tmp_path: Path) -> None:
    ink, far = a_set(tmp_path / "sets" / "ink"), a_set(tmp_path / "elsewhere" / "4711")
    (tmp_path / "sets" / "anime").symlink_to(far)
    a_set(tmp_path / "sets" / ".part")
    (tmp_path / "sets" / "notes").mkdir()
    (tmp_path / "sets" / "readme.txt").touch()
    assert set_folders(ink) == {"ink": ink}
    assert set_folders(tmp_path / "sets") == {"anime": far, "ink": ink}


def test_a_link_that_leads_nowhere_is_passed_over_with_a_word(tmp_path: Path) -> None:
    """A share that is not mounted, or a set that was removed: otherwise only failed rows would show it."""
    (tmp_path / "gone").symlink_to(tmp_path / "unmounted" / "set")
    (tmp_path / "loop").symlink_to("loop")
    with capture_logs() as lines:
        assert list(set_folders(tmp_path).values()) == [tmp_path]
    a_set(tmp_path / "ink")
    with capture_logs() as more:
        assert list(set_folders(tmp_path)) == ["ink"]
    for said in (lines, more):
        assert [Path(line["folder"]).name for line in said] == ["gone", "loop"]
        assert {line["consequence"] for line in said} == {"it is a link that leads nowhere, so it is passed over"}


def test_a_set_that_is_being_built_is_not_held(tmp_path: Path) -> None:
    """`engines build` exchanges the two folders and removes the old one, which still has its manifest for a while."""
    a_set(tmp_path / "ink")
    a_set(tmp_path / f"ink{BUILDING}")
    assert list(set_folders(tmp_path)) == ["ink"]


def test_where_there_is_no_set_the_folder_itself_is_loaded_which_says_so(tmp_path: Path) -> None:
    assert set_folders(tmp_path / "missing") == {"missing": tmp_path / "missing"}
    (tmp_path / "empty dir").mkdir()
    assert set_folders(tmp_path / "empty dir") == {"default": tmp_path / "empty dir"}


def test_a_folder_whose_name_no_row_can_have_is_refused(tmp_path: Path) -> None:
    a_set(tmp_path / "ink")
    a_set(tmp_path / "my model")
    with pytest.raises(EngineSetRefused, match="'my model' of an engine set has a name that no row can have"):
        set_folders(tmp_path)
