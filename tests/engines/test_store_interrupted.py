"""A push or a pull that is killed goes on where it was; two at once do the work once."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack
from pathlib import Path

import pytest

from engines.manifest import MANIFEST, load_manifest
from tests import forked
from tests.engines.conftest import Ended
from tests.engines.stored import contents, digest_of, toy_set
from tests.engines.stored import start as start_engines
from tests.eventually import eventually
from tests.odd_s3_store import OddStore, Refusal

ROOT = "s3://bucket/sets"
LAST = "unet.onnx"

Start = Callable[..., forked.ForkedProcess]


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return toy_set(tmp_path / "set")


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts `engines` as a process of its own, which ends with the test."""
    with ExitStack() as stack:

        def started(*arguments: object) -> forked.ForkedProcess:
            process = stack.enter_context(start_engines(*arguments))  # which closes pipes and waits
            stack.callback(process.kill)
            return process

        yield started


class Gate:
    """Holds requests of one method for one file until it is opened; they fail then."""

    def __init__(self, store: OddStore, method: str) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        self._method = method
        store.refuse = self._refuse

    def _refuse(self, method: str, path: str, key: str) -> Refusal | None:
        if method != self._method or not path.endswith(LAST) or self.opened.is_set():
            return None
        self.reached.set()
        self.opened.wait()
        return Refusal(500, "InternalError", "")


def requests_of(store: OddStore, method: str) -> list[str]:
    """The files that were asked for or sent, by name."""
    return [path.rpartition("/")[2] for each, path in store.requests if each == method and "." in path]


def wait_for_all_but_last(part: Path, names: Set[str], gate: Gate) -> None:
    """Wait until a pull has all files but the one that the gate holds."""
    eventually(lambda: {path.name for path in part.glob("*")} >= names - {LAST})
    assert gate.reached.wait(60)


def killed(process: forked.ForkedProcess, gate: Gate) -> None:
    """Kill a process that waits at the gate, and open it."""
    process.kill()
    process.communicate()
    gate.opened.set()


def test_a_pull_that_was_killed_fetches_only_what_it_lacks(
    engines: Callable[..., Ended], store: OddStore, toy: Path, tmp_path: Path, start: Start
) -> None:
    assert engines("push", toy, ROOT).code == 0
    gate, sets, digest = Gate(store, "GET"), tmp_path / "sets", digest_of(toy)
    process = start("pull", ROOT, "--into", sets)
    names = load_manifest(toy).files.keys()
    part = sets / f".{digest}.part"
    wait_for_all_but_last(part, names, gate)
    killed(process, gate)
    assert not (sets / digest).exists()
    assert not (sets / "current").is_symlink()
    (part / f".{LAST}.0123456789abcdef.part").write_bytes(b"half of a file")
    (part / "clip.onnx").write_bytes(b"changed meanwhile")
    (part / "decoder.onnx").unlink()
    (part / "decoder.onnx").symlink_to(toy / "decoder.onnx")
    (part / "empty" / "folder").mkdir(parents=True)

    store.requests.clear()
    ended = engines("pull", ROOT, "--into", sets)
    assert (ended.code, json.loads(ended.out)["engine_set"]) == (0, digest)
    fetched = sorted(name for name in requests_of(store, "GET") if name in names)
    assert fetched == ["clip.onnx", "decoder.onnx", LAST]
    assert engines("inspect", sets / "current").code == 0
    assert contents(sets / digest).keys() == contents(toy).keys() | {"pushed.json"}
    assert not (sets / digest / "decoder.onnx").is_symlink()


def test_a_push_that_was_killed_sends_only_what_is_missing(
    engines: Callable[..., Ended], store: OddStore, toy: Path, tmp_path: Path, start: Start
) -> None:
    gate = Gate(store, "PUT")
    process = start("push", toy, ROOT)
    names = load_manifest(toy).files.keys()
    eventually(lambda: len(store.objects) == len(names) - 1)
    assert gate.reached.wait(60)
    killed(process, gate)
    listed = json.loads(engines("list", ROOT).out)
    assert listed["sets"] == []
    assert "a push was interrupted" in listed["left_out"][0]["why"]

    store.requests.clear()
    ended = engines("push", toy, ROOT)
    assert (ended.code, json.loads(ended.out)["files"]) == (0, 1)
    assert requests_of(store, "PUT") == [LAST, "pushed.json", MANIFEST]
    assert engines("pull", ROOT, "--into", tmp_path / "sets").code == 0


def test_an_object_of_another_size_is_sent_again(engines: Callable[..., Ended], store: OddStore, toy: Path) -> None:
    engines("push", toy, ROOT)
    (path,) = [path for path in store.objects if path.endswith(LAST)]
    whole, store.objects[path] = store.objects[path], b"half"
    assert json.loads(engines("push", toy, ROOT).out)["files"] == 1
    assert store.objects[path] == whole


def test_of_pulls_at_once_the_others_wait_and_one_takes_over_if_the_first_is_killed(
    engines: Callable[..., Ended], store: OddStore, toy: Path, tmp_path: Path, start: Start
) -> None:
    engines("push", toy, ROOT)
    gate, sets, names = Gate(store, "GET"), tmp_path / "sets", load_manifest(toy).files.keys()
    store.requests.clear()
    first = start("pull", ROOT, "--into", sets)
    wait_for_all_but_last(sets / f".{digest_of(toy)}.part", names, gate)
    others = [start("pull", ROOT, "--into", sets, "--link", tmp_path / name) for name in "ab"]
    for process in others:
        assert process.stderr is not None
        assert "another process is pulling" in process.stderr.readline()
    killed(first, gate)
    told = [json.loads(process.communicate(timeout=120)[0]) for process in others]
    assert [process.returncode for process in others] == [0, 0]
    assert sorted(each["downloaded_bytes"] for each in told) == [0, (toy / LAST).stat().st_size]
    fetched = [name for name in requests_of(store, "GET") if name in names]
    assert sorted(set(fetched)) == sorted(names)
    assert {name for name in names if fetched.count(name) > 1} == {LAST}, "the killed pull asked for it as well"
    assert (tmp_path / "a" / MANIFEST).samefile(tmp_path / "b" / MANIFEST)


def test_sigterm_ends_a_pull_and_leaves_what_it_has(
    engines: Callable[..., Ended], store: OddStore, toy: Path, tmp_path: Path, start: Start
) -> None:
    engines("push", toy, ROOT)
    gate, sets = Gate(store, "GET"), tmp_path / "sets"
    process = start("pull", ROOT, "--into", sets)
    wait_for_all_but_last(sets / f".{digest_of(toy)}.part", load_manifest(toy).files.keys(), gate)
    process.send_signal(signal.SIGTERM)
    gate.opened.set()
    out, _ = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert not (sets / digest_of(toy)).exists()


def test_two_pushes_at_once_leave_one_whole_set(
    engines: Callable[..., Ended], store: OddStore, toy: Path, tmp_path: Path, start: Start
) -> None:
    both = [start("push", toy, ROOT) for _ in range(2)]
    for process in both:
        process.communicate(timeout=120)
    assert [process.returncode for process in both] == [0, 0]
    assert len(json.loads(engines("list", ROOT).out)["sets"]) == 1
    assert engines("pull", ROOT, "--into", tmp_path / "sets").code == 0
