"""The sentence of a job that every live worker refused."""

from __future__ import annotations

from jobs.ledger.records import Refusal
from worker.refusals import SHOWN, failure


def refusal(worker: str, text: str, *, at: float, by: str | None = None) -> Refusal:
    return Refusal(by=by or worker, worker=worker, kind=f"kind_of_{worker}", text=text, at=at)


def test_one_answer_stands_alone_however_many_gave_it() -> None:
    same = [refusal(f"w{i}", "no", at=i) for i in range(100)]
    assert (failure(same).kind, failure(same).text) == ("kind_of_w0", "no")


def test_workers_that_said_the_same_are_one_part_of_the_sentence_and_settings_are_named() -> None:
    said = [refusal("w1", "full", at=3), refusal("w2", "not listed", at=1, by="abcd"), refusal("w3", "full", at=2)]
    assert failure(said).text == "every live worker refused it: w2 (settings abcd): not listed; w3 and 1 more: full"
    assert failure(said).kind == "kind_of_w2"


def test_the_sentence_stays_short() -> None:
    said = [refusal(f"w{i}", f"{i}" * 5000, at=i) for i in range(9)]
    assert len(failure(said).text) < 350 * SHOWN
    assert failure(said).text.endswith(f"and {9 - SHOWN} other answers")


def test_workers_that_may_not_look_say_nothing_about_the_job() -> None:
    kinds = ["source_forbidden", "source_forbidden", "output_full", "source_not_found"]
    said = [Refusal(by=f"w{i}", worker=f"w{i}", kind=kind, text=kind, at=float(i)) for i, kind in enumerate(kinds)]
    assert failure(said).kind == "source_not_found"
    assert failure(said[:3]).kind == "source_forbidden"
