"""What a push or a pull refuses, and what bucket and disk refuse: a sentence, an exit code, and no half set."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engines.manifest import MANIFEST, load_manifest
from engines.store import bucket as door
from engines.store import push as pushing
from engines.store.shelf import Shelf
from tests.engines.conftest import Ended
from tests.engines.sets import edit_manifest
from tests.engines.stored import contents, digest_of, place_of, stages_of, toy_set
from tests.odd_s3_store import OddStore, Refusal
from tests.small_disk import small_file_system

S3 = "s3://bucket/sets"


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return toy_set(tmp_path / "set")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "BASE_SECONDS", 0.001)


# -- what is in the bucket ------------------------------------------------------------------------------------------


def test_a_changed_file_in_the_bucket_is_refused_and_the_set_not_there(
    engines: Callable[..., Ended], toy: Path, tmp_path: Path
) -> None:
    root, sets, digest = tmp_path / "root", tmp_path / "sets", digest_of(toy)
    engines("push", toy, root)
    spoilt = place_of(toy, root) / "unet.onnx"
    spoilt.write_bytes(bytes(spoilt.stat().st_size))
    ended = engines("pull", root, "--into", sets)
    assert (ended.code, ended.out) == (6, "")
    assert f"error: {spoilt} is not the file that its manifest lists: its SHA-256 is " in ended.err
    assert "push the set again with --verify" in ended.err
    assert not (sets / digest).exists()
    assert not (sets / "current").is_symlink()
    assert engines("push", toy, root, "--verify").code == 0
    assert engines("pull", root, "--into", sets).code == 0


@pytest.mark.parametrize("name", ["../../etc/x", "/tmp/x", "a/../../x", "pushed.json"])
def test_a_manifest_that_leads_out_of_its_folder_is_no_sets(
    engines: Callable[..., Ended], toy: Path, tmp_path: Path, name: str
) -> None:
    root = tmp_path / "root"
    engines("push", toy, root)
    edit_manifest(place_of(toy, root), lambda manifest: manifest["tokenizer"]["files"].update({name: "0" * 64}))
    before = contents(tmp_path)
    ended = engines("pull", root, "--into", tmp_path / "sets")
    assert ended.code == 8
    assert name in ended.err
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda manifest: manifest["source"].update(weights="../.."), "manifest says '../..', which cannot be part of"),
        (lambda manifest: manifest["versions"].update(onnxruntime="1/../2"), "'onnxruntime-1/../2', which cannot be"),
        (lambda manifest: manifest.update(architecture=".."), "'..', which cannot be part of a folder's name"),
        (lambda manifest: manifest.update(backend="openvino"), "is not valid at backend: Input should be"),
        (lambda manifest: manifest.update(runtime="torch_99"), "it has no version of the runtime, torch_99"),
        (lambda manifest: manifest["tokenizer"]["files"].update({"pushed.json": "0"}), "has a file pushed.json, a"),
        (lambda manifest: manifest["tokenizer"]["files"].update({"pushed.json/x": "0"}), "has a file pushed.json/x, a"),
    ],
)  # fmt: skip
def test_a_set_that_has_no_place_is_not_pushed(
    engines: Callable[..., Ended], toy: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    edit_manifest(toy, change)
    ended = engines("push", toy, tmp_path / "root")
    assert (ended.code, ended.out) == (6, "")
    assert sentence in ended.err
    assert not (tmp_path / "root").exists()


def test_a_manifest_of_gigabytes_is_not_read(engines: Callable[..., Ended], toy: Path, tmp_path: Path) -> None:
    engines("push", toy, tmp_path / "root")
    with (place_of(toy, tmp_path / "root") / MANIFEST).open("r+b") as file:
        file.truncate(2**32)
    ended = engines("list", tmp_path / "root")
    assert "manifest.json is not an engine set's manifest: it has 4,294,967,296 bytes" in ended.err


def test_a_file_that_does_not_end_is_left(
    engines: Callable[..., Ended], toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines("push", toy, tmp_path / "root")
    sizes = door.Bucket.sizes

    def smaller(self: door.Bucket, name: str) -> dict[str, int]:
        return {each: 3 if each == "unet.onnx" else size for each, size in sizes(self, name).items()}

    monkeypatch.setattr(door.Bucket, "sizes", smaller)
    ended = engines("pull", tmp_path / "root", "--into", tmp_path / "sets")
    assert ended.code == 6
    assert "unet.onnx is larger than the 3 bytes that the store lists" in ended.err
    assert not list((tmp_path / "sets").rglob("*unet*"))


# -- what is pushed -------------------------------------------------------------------------------------------------


def test_a_file_that_was_changed_after_the_build_is_not_pushed(
    engines: Callable[..., Ended], toy: Path, tmp_path: Path
) -> None:
    (toy / "unet.onnx").write_bytes(b"other")
    ended = engines("push", toy, tmp_path / "root")
    assert (ended.code, ended.out) == (6, "")
    assert f"error: {toy / 'unet.onnx'} was changed after it was built" in ended.err
    assert not (place_of(toy, tmp_path / "root") / "unet.onnx").exists()
    assert not (place_of(toy, tmp_path / "root") / MANIFEST).exists()


def test_a_file_that_changes_while_it_is_sent_is_removed_again(
    engines: Callable[..., Ended], toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_manifest(toy).files
    (toy / "unet.onnx").write_bytes(b"other")
    monkeypatch.setattr(pushing, "_sha256", lambda path: expected[path.name])  # as it was when it was looked at
    ended = engines("push", toy, tmp_path / "root")
    assert ended.code == 6
    assert f"{toy / 'unet.onnx'} was changed after it was built" in ended.err
    assert not (place_of(toy, tmp_path / "root") / "unet.onnx").exists()


def test_what_is_no_set_is_not_pushed(engines: Callable[..., Ended], toy: Path, tmp_path: Path) -> None:
    (toy / "unet.onnx").unlink()
    ended = engines("push", toy, tmp_path / "root")
    assert ended == Ended(6, "", f"error: {toy / 'unet.onnx'} is missing: the manifest lists it")
    nothing = tmp_path / "nothing"
    for folder, why in ((nothing, f"there is no folder {nothing}"), (tmp_path, "it has no manifest.json")):
        ended = engines("push", folder, tmp_path / "root")
        assert ended == Ended(6, "", f"error: {folder} is not a finished engine set: {why}")


# -- the bucket -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refusal", "sentence"),
    [
        (Refusal(404, "NoSuchBucket", "no"), "the bucket 'bucket' does not exist; create it first"),
        (Refusal(403, "SignatureDoesNotMatch", "no"), "check AWS_ACCESS_KEY_ID"),
        (Refusal(403, "AccessDenied", "no"), "the AWS keys of this machine lack the right s3:"),
        (Refusal(503, "SlowDown", "no"), "SlowDown (tried 5 times)"),
        (Refusal(503, "SlowDown", "no", {"Retry-After": "60"}), "SlowDown (it asks to wait 60 s)"),
        (Refusal(500, "InternalError", "no"), "InternalError (tried 5 times)"),
    ],
)
def test_what_the_bucket_refuses_ends_with_9_and_a_sentence(
    engines: Callable[..., Ended], store: OddStore, toy: Path, tmp_path: Path, refusal: Refusal, sentence: str
) -> None:
    store.refuse = lambda method, path, key: refusal
    for command in (["push", toy, S3], ["pull", S3, "--into", tmp_path / "sets"], ["list", S3]):
        ended = engines(*command)
        assert (ended.code, ended.out) == (9, "")
        assert ended.err.startswith("error: s3://bucket/sets")
        assert sentence in ended.err
        assert "secret" not in ended.err


def test_a_bucket_that_is_away_ends_with_9(
    engines: Callable[..., Ended], store: OddStore, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    for command in (["push", toy, S3], ["pull", S3, "--into", tmp_path / "sets"], ["list", S3]):
        ended = engines(*command)
        assert ended.code == 9
        assert "EndpointConnectionError (tried 5 times)" in ended.err


def test_a_bucket_that_stumbles_is_asked_again(
    engines: Callable[..., Ended], store: OddStore, toy: Path, tmp_path: Path
) -> None:
    seen: dict[tuple[str, str], int] = {}

    def first_twice(method: str, path: str, key: str) -> Refusal | None:
        seen[method, path] = seen.get((method, path), 0) + 1
        return Refusal(503, "SlowDown", "") if seen[method, path] <= 2 else None

    store.refuse = first_twice
    assert engines("push", toy, S3).code == 0
    seen.clear()
    assert engines("pull", S3, "--into", tmp_path / "sets").code == 0
    assert engines("inspect", tmp_path / "sets" / "current").code == 0


def test_listings_of_many_pages_are_read_to_their_end(
    engines: Callable[..., Ended], store: OddStore, toy: Path, tmp_path: Path
) -> None:
    store.page = 2
    store.objects["/bucket/sets/"] = b""  # as some tools make folders
    for content in "abc":
        engines("push", toy_set(tmp_path / content, content=content), S3)
    assert len(json.loads(engines("list", S3).out)["sets"]) == 3
    assert json.loads(engines("push", tmp_path / "a", S3).out)["files"] == 0


def test_a_refused_upload_leaves_no_set(engines: Callable[..., Ended], store: OddStore, toy: Path) -> None:
    denied = Refusal(403, "AccessDenied", "no")
    store.refuse = lambda method, path, key: denied if method == "PUT" and path.endswith("unet.onnx") else None
    ended = engines("push", toy, S3)
    assert ended.code == 9
    assert "unet.onnx may not be written" in ended.err
    assert not [path for path in store.objects if path.endswith(MANIFEST)]


# -- this machine ---------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    with small_file_system(tmp_path / "disk", size="64k") as folder:
        yield folder


def test_a_full_disk_ends_with_7_and_is_said_before_the_download(
    engines: Callable[..., Ended], tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = toy_set(tmp_path / "large", content="x" * 30_000)
    engines("push", folder, tmp_path / "root")
    ended = engines("pull", tmp_path / "root", "--into", small_disk)
    assert (ended.code, ended.out) == (7, "")
    assert f"{small_disk} has 65.5 kB free, and " in ended.err
    assert "are still missing; make room, or name another folder with --into" in ended.err

    monkeypatch.setattr(Shelf, "check_space", lambda self, missing_bytes: None)  # another program took the room
    ended = engines("pull", tmp_path / "root", "--into", small_disk)
    assert (ended.code, ended.out) == (7, "")
    assert "cannot be written: no space left" in ended.err
    assert "(this was not expected" not in ended.err
    assert not (small_disk / digest_of(folder)).exists()

    full = engines("push", folder, small_disk)
    assert full.code == 9
    assert "no space left" in full.err


def test_a_read_only_folder_serves_when_the_set_is_there_and_the_link_elsewhere(
    engines: Callable[..., Ended], toy: Path, tmp_path: Path, small_disk: Path
) -> None:
    root, remount = tmp_path / "root", ["mount", "-o", "remount,ro", str(small_disk)]
    engines("push", toy, root)
    engines("pull", root, "--into", small_disk / "sets")
    subprocess.run(remount, check=True)
    assert engines("pull", root, "--into", small_disk / "sets").code == 0, "the link points there already"
    assert engines("pull", root, "--into", small_disk / "sets", "--link", tmp_path / "pod" / "set").code == 0
    assert engines("inspect", tmp_path / "pod" / "set").code == 0
    for into, link in (("sets", small_disk / "other"), ("more", tmp_path / "link")):
        ended = engines("pull", root, "--into", small_disk / into, "--link", link)
        assert ended.code == 7
        assert "Read-only file system" in ended.err
        if link.is_relative_to(small_disk):
            assert f"error: {link} cannot be made: " in ended.err, "not the set, which the link would lead to"


def test_a_folder_that_is_a_file_ends_with_7(engines: Callable[..., Ended], toy: Path, tmp_path: Path) -> None:
    engines("push", toy, tmp_path / "root")
    (tmp_path / "file").write_text("")
    for into in (tmp_path / "file", tmp_path / "file" / "sets"):
        ended = engines("pull", tmp_path / "root", "--into", into)
        assert ended.code == 7
        assert str(tmp_path / "file") in ended.err
        assert "(this was not expected" not in ended.err
    ended = engines("push", toy, tmp_path / "file")
    assert ended.code == 9
    assert f"{tmp_path / 'file'}" in ended.err


def test_a_link_in_the_place_of_a_pulls_own_files_is_not_followed(
    engines: Callable[..., Ended], toy: Path, tmp_path: Path
) -> None:
    engines("push", toy, tmp_path / "root")
    sets, elsewhere, digest = tmp_path / "sets", tmp_path / "elsewhere", digest_of(toy)
    sets.mkdir()
    elsewhere.mkdir()
    (sets / f".{digest}.part").symlink_to(elsewhere)
    (sets / f".{digest}.lock").symlink_to(elsewhere / "lock")
    ended = engines("pull", tmp_path / "root", "--into", sets)
    assert (ended.code, f"{sets / f'.{digest}.lock'}: " in ended.err) == (7, True)
    (sets / f".{digest}.lock").unlink()
    assert engines("pull", tmp_path / "root", "--into", sets).code == 0
    assert list(elsewhere.iterdir()) == []


def test_files_in_folders_are_pulled_into_them(engines: Callable[..., Ended], tmp_path: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        (stage,) = [stage for stage in stages_of(manifest) if "unet.onnx" in stage["files"]]
        (folder / "a" / "b").mkdir(parents=True)
        (folder / "unet.onnx").rename(folder / "a" / "b" / "unet ü.onnx")
        stage["files"] = {"a/b/unet ü.onnx": stage["files"]["unet.onnx"]}

    folder = tmp_path / "set"
    toy_set(folder, change=change)
    engines("push", folder, tmp_path / "root")
    assert engines("pull", tmp_path / "root", "--into", tmp_path / "sets").code == 0
    assert (tmp_path / "sets" / "current" / "a" / "b" / "unet ü.onnx").is_file()
