"""A batch that different engine sets drew is noticed: in status, at the end of a watched batch, and in JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.ledger.engine_sets import engine_sets as counted
from jobs.ledger.keys import batch_key
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import EngineSetJobs, EngineSets
from producer import engine_sets
from producer.engine_sets import difference, engine_set_name, uncounted
from tests.producer.conftest import Run
from tests.producer.renderer import SETS, render_batch
from tests.producer.tables import write

SENTENCE = (
    "2 different engine sets drew these pictures: 2 by 000000000000 (some-model), 1 by 111111111111 (another-model)"
)
RECORD = [
    {"engine_set": SETS[0][0], "model": SETS[0][1], "jobs": 2},
    {"engine_set": SETS[1][0], "model": SETS[1][1], "jobs": 1},
]


@pytest.fixture
def submitted(run: Run, tmp_path: Path) -> None:
    write(tmp_path, "image,prompt\n" + "photo.png,a cat\n" * 3)
    assert run("submit", "jobs.csv").code == 0


def of(*jobs: int, unknown: int = 0) -> EngineSets:
    sets = tuple(EngineSetJobs(engine_set=f"{n}" * 64, model=f"m{n}", jobs=number) for n, number in enumerate(jobs))
    return EngineSets(sets=sets, unknown=unknown)


def test_status_warns_of_a_batch_that_two_sets_drew(run: Run, ledger: Ledger, submitted: None) -> None:
    render_batch(ledger, "jobs", others=[2])
    assert SENTENCE in run("status", "jobs").stderr
    record = run("status", "jobs", "--json").record
    assert record["engine_sets"] == RECORD
    assert record["engine_sets_unknown"] == 0


def test_status_of_all_batches_names_the_batch(run: Run, ledger: Ledger, submitted: None, tmp_path: Path) -> None:
    write(tmp_path, "image,prompt\nphoto.png,a cat\n", name="other.csv")
    run("submit", "other.csv")
    render_batch(ledger, "jobs", others=[2])
    said = run("status").stderr
    assert f"batch 'jobs': {SENTENCE}" in said
    assert "'other'" not in said


@pytest.mark.parametrize("others", [[], [1, 2, 3]], ids=["the first", "the second"])
def test_a_batch_of_one_set_is_no_warning(run: Run, ledger: Ledger, submitted: None, others: list[int]) -> None:
    render_batch(ledger, "jobs", others=others)
    assert "engine set" not in run("status", "jobs").stderr
    assert "engine set" not in run("status", "jobs", "--watch").stderr
    assert len(run("status", "jobs", "--json").record["engine_sets"]) == 1


@pytest.mark.parametrize(
    "arguments", [("status", "jobs", "--watch", "--json"), ("submit", "jobs.csv", "--wait")], ids=["watch", "wait"]
)
def test_the_summary_of_a_batch_that_has_ended_says_so(
    run: Run, ledger: Ledger, submitted: None, arguments: tuple[str, ...]
) -> None:
    render_batch(ledger, "jobs", others=[2])
    ran = run(*arguments)
    assert ran.code == 0
    assert SENTENCE in ran.stderr
    assert ran.record["engine_sets"] == RECORD
    assert ran.record["engine_sets_unknown"] == 0


def test_rows_of_different_models_are_no_warning_and_those_of_one_model_are(
    run: Run, ledger: Ledger, tmp_path: Path
) -> None:
    write(tmp_path, "image,prompt,model\n" + "photo.png,a cat,ink\n" * 2 + "photo.png,a cat,oil\n" * 2)
    assert run("submit", "jobs.csv").code == 0
    render_batch(ledger, "jobs", others=[3, 4])
    commands = (("status", "jobs"), ("status",), ("status", "jobs", "--watch"), ("gallery", "jobs", "--out", "page"))
    for arguments in commands:
        ran = run(*arguments)
        assert (ran.code, "engine set" in ran.stderr) == (0, False), arguments
    record = run("status", "jobs", "--json").record
    assert [each["jobs"] for each in record["engine_sets"]] == [2, 2]
    assert record["engine_sets_by_model"] == {
        "ink": [RECORD[0]],
        "oil": [{**RECORD[1], "jobs": 2}],
    }
    write(tmp_path, "image,prompt,model\n" + "photo.png,a cat,ink\n" * 3)
    assert run("submit", "jobs.csv", "--batch", "other").code == 0
    render_batch(ledger, "other", others=[2])
    said = run("status", "other").stderr
    assert SENTENCE.replace("these pictures", "the rows of model ink") in said


def test_a_failed_job_of_another_set_is_no_difference(run: Run, ledger: Ledger, submitted: None) -> None:
    render_batch(ledger, "jobs", others=[2], failing=[2])
    ran = run("status", "jobs", "--watch", "--json")
    assert "engine set" not in ran.stderr
    assert ran.record["engine_sets"] == RECORD[:1]


def test_a_batch_that_is_half_counted_is_read_where_it_is_named_and_not_in_the_list(
    run: Run, ledger: Ledger, submitted: None
) -> None:
    render_batch(ledger, "jobs", others=[2])
    ledger.client.hdel(batch_key("jobs", "engine_sets"), " ".join(SETS[0]))  # as if earlier workers had drawn these
    assert run("status", "jobs", "--json").record["engine_sets"] == RECORD
    listed = run("status", "--json").record
    assert listed["engine_sets"] == RECORD[1:]
    assert listed["engine_sets_unknown"] == 2
    assert "engine set 111111111111 (another-model) drew at least 1 job; 2 ended" in run("status").stderr


def test_what_was_not_counted_is_part_of_the_warning() -> None:
    assert difference(of(5, 3)) is not None
    assert str(difference(of(2_000, 1, unknown=30))).endswith(
        "2,000 by 000000000000 (m0), 1 by 111111111111 (m1), 30 by sets that were not counted "
        "(producer results names each job's)"
    )


def test_many_sets_are_summed_up() -> None:
    text = str(difference(of(9, 8, 7, 6, 5, 4, 3)))
    assert text.startswith("7 different engine sets")
    assert text.endswith("5 by 444444444444 (m4), 7 by 2 other sets")


@pytest.mark.parametrize("sets", [of(), of(3), of(unknown=4)], ids=["none", "one", "of before"])
def test_where_nothing_is_known_to_differ_nothing_is_said(sets: EngineSets) -> None:
    assert difference(sets) is None
    assert uncounted(sets) is None


def test_a_name_without_a_model_is_the_digest_and_moves_no_cursor() -> None:
    assert engine_set_name("fake", None) == "fake"
    assert engine_set_name("f" * 64, "a\x1b[2Jb") == "f" * 12 + " (a\N{REPLACEMENT CHARACTER}[2Jb)"
    assert engine_sets.DIGEST_DIGITS == 12


def test_rows_that_workers_of_an_earlier_version_drew_are_not_said_to_have_no_model() -> None:
    ink, oil = "a" * 64, "b" * 64
    both = {f"{ink} ink": "3", f"{oil} oil": "3", f"{ink} ink\tink": "2", f"{oil} oil\toil": "2"}
    sets = counted(both, done=10)
    assert sets is not None
    said = difference(sets)
    assert said is not None
    assert said.startswith("2 different engine sets drew the rows without a model, or rows that workers of an earlier")
