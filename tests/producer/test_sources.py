"""Files of other kinds than CSV, as people submit them: by ending, by option, from a pipe and from a bucket."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from jobs.ledger.ledger import Ledger
from tests.odd_s3_store import OddStore
from tests.producer.conftest import Run
from tests.producer.tables import write

ROWS = [{"image": "a.png", "prompt": "a cat", "seed": 1}, {"image": "b.png", "prompt": "a dog", "seed": 2}]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS)
TSV = 'image\tprompt\tseed\na.png\t"a cat"\t1\nb.png\ta dog\t2\n'
CSV = "image,prompt,seed\na.png,a cat,1\nb.png,a dog,2\n"


def parquet() -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), buffer)
    return buffer.getvalue()


def ids(ledger: Ledger, batch: str = "jobs") -> set[str]:
    return set(ledger.ids(batch))


@pytest.mark.parametrize("name", ["jobs.jsonl", "jobs.ndjson", "jobs.TSV", "jobs.tab", "jobs.parquet", "jobs.pq"])
def test_the_same_rows_are_the_same_jobs_whatever_the_file(run: Run, ledger: Ledger, tmp_path: Path, name: str) -> None:
    write(tmp_path, CSV)
    run("submit", "jobs.csv")
    of_csv = ids(ledger)
    ledger.client.flushall()
    ending = name.lower().rpartition(".")[2]
    data = {"jsonl": JSONL, "ndjson": JSONL, "tsv": TSV, "tab": TSV}.get(ending, parquet())
    write(tmp_path, data, name)
    ran = run("submit", name, "--output", "others")
    assert (ran.code, ran.record["enqueued"], ran.record["rows"]) == (0, 2, 2)
    assert ids(ledger) == of_csv
    assert run("submit", name, "--output", "others").record["enqueued"] == 0


@pytest.mark.parametrize(("format", "data"), [("jsonl", JSONL.encode()), ("tsv", TSV.encode()), ("Parquet", parquet())])
def test_a_pipe_says_its_kind_by_an_option(run: Run, tmp_path: Path, format: str, data: bytes) -> None:
    ran = run("submit", "-", "--input-format", format, "--batch", "b", stdin=data)
    assert (ran.code, ran.record["enqueued"]) == (0, 2)
    unsaid = run("submit", "-", "--batch", "c", stdin=data)
    assert unsaid.code == (0 if format == "tsv" else 3)
    if format != "tsv":
        assert f"give --input-format {format.lower()}" in unsaid.stderr


def test_an_option_overrules_the_ending(run: Run, tmp_path: Path) -> None:
    write(tmp_path, JSONL, "jobs.txt")
    assert run("submit", "jobs.txt", "--input-format", "jsonl", "--dry-run").record["rows"] == 2
    ran = run("submit", "jobs.txt", "--input-format", "xml")
    assert (ran.code, "allowed: csv, tsv, jsonl, parquet" in ran.stderr) == (2, True)


@pytest.mark.parametrize(("name", "data"), [("jobs.jsonl", JSONL.encode()), ("jobs.parquet", parquet())])
def test_a_file_in_a_bucket_is_read_by_its_ending(
    run: Run, ledger: Ledger, empty_store: OddStore, name: str, data: bytes
) -> None:
    empty_store.objects[f"/pictures/in/{name}"] = data
    assert run("submit", f"s3://pictures/in/{name}").record["enqueued"] == 2
    images = {job.parameters.image for job in ledger.jobs("jobs", list(ids(ledger))).values()}
    assert images == {"s3://pictures/in/a.png", "s3://pictures/in/b.png"}


def test_rejected_rows_go_to_a_csv(run: Run, tmp_path: Path) -> None:
    write(tmp_path, JSONL + '{"image": "c.png", "seed": "x", "prompt": "a\\nb"}\n{"image"\n', "jobs.jsonl")
    ran = run("submit", "jobs.jsonl", "--skip-invalid")
    assert (ran.code, ran.record["enqueued"], ran.record["rejected"]) == (0, 2, 2)
    with (tmp_path / "jobs.rejected.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["line"], first["image"], first["prompt"]) == ("3", "c.png", "a\nb")
    assert first["reason"].startswith("seed: 'x' is not a whole number")
    assert (second["line"], second["image"]) == ("4", '{"image"')


def test_a_tab_separated_file_with_commas_in_its_cells(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, "image\tprompt\na.png\ta, b\n", "jobs.tsv")
    ran = run("submit", "jobs.tsv")
    assert "separated by tabs" not in ran.stderr
    (job,) = ledger.jobs("jobs", list(ids(ledger))).values()
    assert job.parameters.prompt == "a, b"


def test_a_tsv_with_commas_for_tabs_is_refused(run: Run, tmp_path: Path) -> None:
    write(tmp_path, CSV, "jobs.tsv")
    ran = run("submit", "jobs.tsv")
    assert ran.code == 3
    assert "its columns are not separated by tabs; give --input-format csv" in ran.stderr


def test_a_prompt_for_all_rows_that_have_none(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, "image\na.png\n\nb.png\n")
    assert run("submit", "jobs.csv").code == 3
    assert run("submit", "jobs.csv", "--prompt", "a cat").record["enqueued"] == 2
    write(tmp_path, "image,prompt\na.png,\nb.png,a dog\n", "other.csv")
    run("submit", "other.csv", "--prompt", "")
    prompts = {job.parameters.prompt for job in ledger.jobs("other", list(ids(ledger, "other"))).values()}
    assert prompts == {" ", "a dog"}


def test_prompt_warnings_name_the_row(run: Run, tmp_path: Path) -> None:
    rows = [{"image": "a.png", "prompt": "x"}, {"image": "a.png", "prompt": "(cat:1.3)"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "jobs.parquet")
    ran = run("submit", "jobs.parquet", "--dry-run")
    assert "prompt of 1 row has" in ran.stderr
    assert "; in row 2. " in ran.stderr
    assert (ran.record["prompt_warnings"][0]["first_line"], ran.record["prompt_warnings"][0]["first_place"]) == (
        None,
        "row 2",
    )


def test_without_pyarrow_a_command_says_what_to_install(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jobs.parquet").write_bytes(parquet())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    ran = run("submit", "jobs.parquet")
    assert ran.code == 2
    assert "reading Parquet needs pyarrow, which is not installed: pip install 'batch-renderer[parquet]'" in ran.stderr
