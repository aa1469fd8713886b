"""Empty prompts and defaults for a file, and what is said of prompts: `producer submit` against a real Redis."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from jobs.job import DEFAULT_A_PROMPT, DEFAULT_N_PROMPT, EMPTY_PROMPT, RenderParameters
from jobs.ledger.keys import batch_key
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Counts
from producer import submit as submit_module
from tests.producer.conftest import Run
from tests.producer.renderer import render_batch
from tests.producer.tables import write

PARTS = "image,prompt,a_prompt,n_prompt\na.png,a cat,<empty>,<EMPTY>\nb.png,a dog,,\nc.png,a bird,sharp,dull\n"


def jobs(ledger: Ledger, batch: str = "jobs") -> list[RenderParameters]:
    """The parameters of a batch, in row order."""
    found = [ledger.job(batch, line.id) for line in ledger.states(batch)]
    return [job.parameters for job in sorted((job for job in found if job), key=lambda job: job.row)]


def parts(ledger: Ledger) -> list[tuple[str, str]]:
    return [(one.a_prompt, one.n_prompt) for one in jobs(ledger)]


def test_an_empty_prompt_is_not_the_default(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, PARTS)
    run("submit", "jobs.csv")
    assert parts(ledger) == [("", ""), (DEFAULT_A_PROMPT, DEFAULT_N_PROMPT), ("sharp", "dull")]


def test_a_row_may_have_no_prompt_at_all(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, "image,prompt,guess_mode\na.png,<empty>,true\n")
    ran = run("submit", "jobs.csv")
    assert (ran.code, [one.prompt for one in jobs(ledger)]) == (0, [EMPTY_PROMPT])
    assert ran.record["prompt_warnings"] == []


def test_options_set_what_empty_cells_of_the_file_mean(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, PARTS)
    run("submit", "jobs.csv", "--n-prompt", "grey, flat", "--a-prompt", "oil on canvas")
    assert parts(ledger) == [("", ""), ("oil on canvas", "grey, flat"), ("sharp", "dull")]


@pytest.mark.parametrize("text", ["", " ", "<empty>"])
def test_an_option_may_be_empty_and_the_column_missing(run: Run, ledger: Ledger, tmp_path: Path, text: str) -> None:
    write(tmp_path, "image,prompt\na.png,a cat\n")
    run("submit", "jobs.csv", "--n-prompt", text)
    assert parts(ledger) == [(DEFAULT_A_PROMPT, "")]


def test_the_same_options_give_the_same_jobs_and_others_are_refused(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, PARTS)
    run("submit", "jobs.csv", "--n-prompt", "")
    assert run("submit", "jobs.csv", "--n-prompt", "<empty>").record["enqueued"] == 0
    render_batch(ledger, "jobs")
    for options in ((), ("--n-prompt", "dull"), ("--n-prompt", "", "--a-prompt", "sharp"), ("--a-prompt", "sharp")):
        ran = run("submit", "jobs.csv", *options)
        assert (ran.code, ran.stdout) == (2, "")
        assert "batch 'jobs' has rows of jobs.csv that were submitted with --n-prompt ''" in ran.stderr
        assert ran.stderr.endswith("give the same options, or name another --batch\n")
        assert ("and without --a-prompt" in ran.stderr) == ("--a-prompt" in options)
    assert ledger.counts("jobs") == Counts(done=3)
    assert run("submit", "jobs.csv", "--batch", "other").record["enqueued"] == 3


def test_a_file_that_was_submitted_without_options_is_not_submitted_with_some(run: Run, tmp_path: Path) -> None:
    write(tmp_path, PARTS)
    run("submit", "jobs.csv")
    ran = run("submit", "jobs.csv", "--n-prompt", "it's dull")
    assert (ran.code, "that were submitted without --n-prompt. With other" in ran.stderr) == (2, True)
    assert run("submit", "jobs.csv").record["already"]["queued"] == 3


def test_options_are_said_as_a_shell_reads_them(run: Run, tmp_path: Path) -> None:
    write(tmp_path, PARTS)
    run("submit", "jobs.csv", "--n-prompt", "it's dull", "--a-prompt", "sharp")
    assert "submitted with --a-prompt sharp and with --n-prompt 'it'\"'\"'s dull'. " in run("submit", "jobs.csv").stderr


def test_a_correction_and_a_second_file_keep_their_own_options(run: Run, tmp_path: Path) -> None:
    write(tmp_path, PARTS)
    run("submit", "jobs.csv", "--n-prompt", "")
    write(tmp_path, PARTS.replace("a dog", "a big dog"))
    assert run("submit", "jobs.csv", "--n-prompt", "").record["replaced"] == 1
    write(tmp_path, PARTS, name="more.csv")
    assert (
        run("submit", "more.csv", "--batch", "jobs", "--n-prompt", "dull").record["enqueued"] == 1
    )  # two rows are those of jobs.csv
    assert run("submit", "more.csv", "--batch", "jobs", "--n-prompt", "dull").record["enqueued"] == 0
    assert "with --n-prompt dull" in run("submit", "more.csv", "--batch", "jobs").stderr
    assert run("submit", "jobs.csv", "--n-prompt", "").record["enqueued"] == 0


def test_a_batch_that_an_earlier_version_began_was_submitted_without_options(
    run: Run, ledger: Ledger, tmp_path: Path
) -> None:
    write(tmp_path, PARTS)
    run("submit", "jobs.csv")
    assert ledger.client.delete(batch_key("jobs", "prompts")) == 1
    assert run("submit", "jobs.csv", "--n-prompt", "").code == 2
    assert run("submit", "jobs.csv").code == 0


def test_options_that_are_refused_leave_a_lost_batch_to_be_recovered(
    run: Run, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RENDER_HEARTBEAT_SECONDS", "0.01")
    write(tmp_path, PARTS)
    run("submit", "jobs.csv", "--n-prompt", "")
    render_batch(ledger, "jobs")
    ledger.client.flushall()
    ran = run("submit", "jobs.csv")
    assert (ran.code, "with --n-prompt ''" in ran.stderr, ledger.batches()) == (2, True, [])
    assert run("submit", "jobs.csv", "--n-prompt", "").record["recovered"] == 3
    ledger.client.flushall()
    assert run("reconcile", "jobs").code == 0
    assert run("submit", "jobs.csv").code == 2
    assert run("submit", "jobs.csv", "--n-prompt", "").record["already"]["done"] == 3


def test_options_are_kept_where_storage_cannot_be_written(run: Run, tmp_path: Path) -> None:
    write(tmp_path, PARTS)
    (tmp_path / "renders").write_bytes(b"in the way")
    ran = run("submit", "jobs.csv", "--n-prompt", "")
    assert (ran.record["enqueued"], ran.stderr.count("The manifest could not be written")) == (3, 1)
    assert run("submit", "jobs.csv").code == 2


def test_a_file_of_options_that_is_damaged_is_not_believed(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, PARTS)
    run("submit", "jobs.csv", "--n-prompt", "")
    (kept,) = (tmp_path / "renders" / "jobs" / "manifest").glob("*.prompts.json")
    kept.write_bytes(b"\xff{")
    assert run("submit", "jobs.csv", "--n-prompt", "").code == 0


def test_an_option_that_says_the_default_changes_no_job(run: Run, tmp_path: Path) -> None:
    write(tmp_path, PARTS)
    run("submit", "jobs.csv")
    assert run("submit", "jobs.csv", "--n-prompt", DEFAULT_N_PROMPT).record["enqueued"] == 0


@pytest.mark.parametrize("option", ["--a-prompt", "--n-prompt"])
def test_an_option_that_is_too_long_is_refused_by_its_name(
    run: Run, ledger: Ledger, tmp_path: Path, option: str
) -> None:
    write(tmp_path, PARTS)
    ran = run("submit", "jobs.csv", option, "x" * 4001)
    assert (ran.code, ledger.batches()) == (2, [])
    assert ran.stderr.strip() == f"{option} has 4,001 characters; allowed: text of at most 4,000 characters"
    assert run("submit", "jobs.csv", option, "x" * 4000).code == 0


def test_an_option_that_is_not_utf_8_is_refused_by_its_name(run: Run, tmp_path: Path) -> None:
    write(tmp_path, PARTS)
    ran = run("submit", "jobs.csv", "--n-prompt", "caf\udce9")
    assert (ran.code, ran.stderr.strip()) == (2, "--n-prompt is not UTF-8 text; write it in UTF-8")


def test_rejected_rows_keep_their_empty_cells_and_the_options_are_named(run: Run, tmp_path: Path) -> None:
    write(tmp_path, "image,prompt,seed,n_prompt\na.png,a cat,1,\nb.png,a dog,two,\n")
    ran = run("submit", "jobs.csv", "--skip-invalid", "--n-prompt", "", "--a-prompt", "sharp")
    assert "submit it again with the same --a-prompt and --n-prompt: only they are new then" in ran.stderr
    with (tmp_path / "jobs.rejected.csv").open(newline="") as file:
        assert list(csv.reader(file))[1][2:] == ["b.png", "a dog", "two", ""]
    write(tmp_path, "image,prompt,seed,n_prompt\na.png,a cat,1,\nb.png,a dog,2,\n")
    assert run("submit", "jobs.csv", "--n-prompt", "", "--a-prompt", "sharp").record["enqueued"] == 1


def test_a_submission_that_was_cut_short_names_the_options_to_go_on_with(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, PARTS)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(submit_module, "enqueue", interrupted)
    ran = run("submit", "jobs.csv", "--n-prompt", "dull")
    assert ran.code == 130
    assert "submit the same file to the same batch again with the same --n-prompt, and the rest follows" in ran.stderr


def test_a_batch_whose_redis_was_lost_comes_back_with_its_empty_prompts(
    run: Run, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RENDER_HEARTBEAT_SECONDS", "0.1")
    write(tmp_path, "image,prompt,n_prompt\na.png,<empty>,\nb.png,a dog,<empty>\n")
    run("submit", "jobs.csv", "--n-prompt", "")
    before = jobs(ledger)
    ledger.client.flushall()
    assert run("reconcile", "jobs").code == 0
    assert jobs(ledger) == before
    assert run("submit", "jobs.csv", "--n-prompt", "").record["enqueued"] == 0


def test_prompts_of_other_tools_are_counted_and_not_refused(run: Run, tmp_path: Path) -> None:
    rows = ["a.png,a cat,", "a.png,(cat:1.3),", "a.png,(dog:0.8),(bad hands:1.4)", "a.png,#NAME?,"]
    write(tmp_path, "\n".join(["image,prompt,n_prompt", *rows, ""]))
    ran = run("submit", "jobs.csv")
    assert (ran.code, ran.record["enqueued"]) == (0, 4)
    assert (
        "prompt of 2 rows has prompt weights such as '(cat:1.3)', which are taken literally; first in line 3. "
        "Write the words alone, or set prompt_syntax to weighted.\n" in ran.stderr
    )
    assert (
        "n_prompt of 1 row has prompt weights such as '(bad hands:1.4)', which are taken literally; in line 4. "
        "Write the words alone, or set prompt_syntax to weighted.\n" in ran.stderr
    )
    assert (
        "prompt of 1 row has values such as '#NAME?', which programs write for an error or for nothing," in ran.stderr
    )
    assert "in line 5. Correct it, or write <empty> for an empty prompt.\n" in ran.stderr
    assert ran.record["prompt_warnings"] == [
        {"column": "prompt", "kind": "prompt weights", "rows": 2, "first_line": 3, "example": "'(cat:1.3)'"},
        {"column": "n_prompt", "kind": "prompt weights", "rows": 1, "first_line": 4, "example": "'(bad hands:1.4)'"},
        {"column": "prompt", "kind": "values", "rows": 1, "first_line": 5, "example": "'#NAME?'"},
    ]


def test_lines_are_those_of_the_file_and_rejected_rows_do_not_count(run: Run, tmp_path: Path) -> None:
    write(tmp_path, 'image,prompt,seed\na.png,"two\nlines",1\n\na.png,(cat:1.3),no\na.png,(dog:1.2),1\n')
    ran = run("submit", "jobs.csv", "--skip-invalid", "--dry-run")
    assert "prompt of 1 row has prompt weights such as '(dog:1.2)', which are taken literally; in line 6." in ran.stderr


def test_a_prompt_that_an_option_sets_is_warned_of_once_and_by_the_option(run: Run, tmp_path: Path) -> None:
    write(tmp_path, f"{PARTS}d.png,a cow,,(red:1.2)\n")
    ran = run("submit", "jobs.csv", "--n-prompt", "(bad hands:1.4)", "--dry-run")
    assert [line for line in ran.stderr.splitlines() if "literally" in line] == [
        "--n-prompt has prompt weights such as '(bad hands:1.4)', which are taken literally. "
        "Write the words alone, or set prompt_syntax to weighted.",
        "n_prompt of 1 row has prompt weights such as '(red:1.2)', which are taken literally; in line 5. "
        "Write the words alone, or set prompt_syntax to weighted.",
    ]
    assert ran.record["prompt_warnings"] == [
        {"option": "--n-prompt", "kind": "prompt weights", "example": "'(bad hands:1.4)'"},
        {"column": "n_prompt", "kind": "prompt weights", "rows": 1, "first_line": 5, "example": "'(red:1.2)'"},
    ]


@pytest.mark.parametrize(("column", "option"), [(",weighted", ()), ("", ("--prompt-syntax", "weighted"))])
def test_weights_that_are_applied_are_not_warned_of(
    run: Run, tmp_path: Path, column: str, option: tuple[str, ...]
) -> None:
    header = "image,prompt" + (",prompt_syntax" if column else "")
    write(tmp_path, f"{header}\na.png,(cat:1.3){column}\nb.png,(cat:1.2.3){column}\n")
    ran = run("submit", "jobs.csv", "--n-prompt", "((bad)) [cat:dog:0.5]", *option, "--dry-run")
    kinds = [(one.get("column"), one["kind"], one.get("rows")) for one in ran.record["prompt_warnings"]]
    assert ("prompt", "numbers that are no weights", 1) in kinds
    assert not {"prompt weights", "emphasis brackets"} & {kind for column_, kind, _ in kinds if column_ == "prompt"}
    if option:
        assert kinds[0] == (None, "prompt schedules", None)
        assert len(kinds) == 2


def test_a_weight_that_is_not_rendered_is_an_error_of_its_row(run: Run, tmp_path: Path) -> None:
    write(tmp_path, 'image,prompt,n_prompt\na.png,"(cat:1.3)",<empty>\nb.png,(cat:300),\nc.png,cat,((bad:99))\n')
    ran = run("submit", "jobs.csv", "--prompt-syntax", "weighted")
    assert ran.code != 0
    assert "jobs.csv:3: prompt gives 'cat' the weight 300; allowed with prompt_syntax weighted: -100 to" in ran.stderr
    assert "jobs.csv:4: n_prompt gives 'bad' the weight 108.9" in ran.stderr
    assert run("submit", "jobs.csv", "--dry-run").code == 0  # literally it is text


def test_a_file_of_plain_prompts_is_not_warned_of(run: Run, tmp_path: Path) -> None:
    write(tmp_path, "image,prompt\na.png,a cat (sitting)\na.png,SALT AND PEPPER\n")
    ran = run("submit", "jobs.csv")
    assert ran.record["prompt_warnings"] == []
    assert "literally" not in ran.stderr


def test_results_and_gallery_show_an_empty_prompt_as_such(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, "image,prompt,n_prompt\na.png,<empty>,<empty>\n")
    run("submit", "jobs.csv")
    render_batch(ledger, "jobs")
    assert run("results", "jobs").record["prompt"] == ""
    header, row = csv.reader(run("results", "jobs", "--format", "csv").stdout.splitlines())
    assert dict(zip(header, row, strict=True))["prompt"] == "<empty>"
    run("gallery", "jobs", "--out", "gallery")
    page = (tmp_path / "gallery" / "index.html").read_text()
    assert '<p class="prompt">(empty)</p>' in page
    assert "<dt>n_prompt</dt><dd>(empty)</dd>" in page
