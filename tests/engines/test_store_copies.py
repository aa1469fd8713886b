"""A set goes to a bucket or folder and comes back: what is copied, what is not, and what a pulled set can do."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engines.engine_set import load_engine_set
from engines.manifest import MANIFEST, load_manifest
from engines.spec import COMPONENTS
from engines.store.layout import RECORD
from tests.engines.conftest import Ended
from tests.engines.sets import edit_manifest
from tests.engines.stored import contents, digest_of, place_of, toy_set, with_plans
from tests.models import tiny_engine_set


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def pushed_and_pulled(engines: Callable[..., Ended], tmp_path: Path) -> tuple[Path, Path, Path]:
    """A toy set, the root that it was pushed to, and the folder of sets that it was pulled into."""
    folder, root, sets = toy_set(tmp_path / "set"), tmp_path / "root", tmp_path / "sets"
    engines("push", folder, root)
    engines("pull", root, "--into", sets)
    return folder, root, sets


def test_a_set_is_laid_out_by_digests_with_the_files_that_loading_needs(
    engines: Callable[..., Ended], tmp_path: Path
) -> None:
    folder = toy_set(tmp_path / "set", built_at=1_760_000_000.0)
    manifest = load_manifest(folder)
    (folder / "progress.json").write_text("what a build left")
    ended = engines("push", folder, tmp_path / "root")
    assert ended.code == 0
    version = manifest.versions["onnxruntime"]
    place = tmp_path / "root" / manifest.source.weights / f"onnxruntime-{version}" / "any" / manifest.digest
    sizes = {name: (folder / name).stat().st_size for name in manifest.files}
    assert json.loads(ended.out) == {
        "engine_set": manifest.digest,
        "uri": place.as_uri(),
        "files": len(sizes),
        "uploaded_bytes": sum(sizes.values()),
    }
    stored = contents(place)
    assert stored.keys() == {*sizes, MANIFEST, RECORD}
    assert all(stored[name] == (folder / name).read_bytes() for name in (*sizes, MANIFEST))
    assert json.loads(stored[RECORD])["built_at"] == "2025-10-09T08:53:20Z"
    assert f"unet.onnx pushed, {sizes['unet.onnx']} bytes (" in ended.err


def test_an_architecture_is_a_folder_of_its_own(engines: Callable[..., Ended], tmp_path: Path) -> None:
    folder = toy_set(tmp_path / "set", change=lambda manifest: manifest.update(architecture="sm90"))
    assert engines("push", folder, tmp_path / "root").code == 0
    assert place_of(folder, tmp_path / "root").parent.name == "sm90"
    assert (place_of(folder, tmp_path / "root") / MANIFEST).is_file()


def test_a_pulled_set_is_the_pushed_one_and_a_link_points_to_it(engines: Callable[..., Ended], tmp_path: Path) -> None:
    folder = toy_set(tmp_path / "set", built_at=1_760_000_000.0)
    engines("push", folder, tmp_path / "root")
    ended = engines("pull", tmp_path / "root", "--into", tmp_path / "a" / "sets")
    sets, digest = tmp_path / "a" / "sets", digest_of(folder)
    assert ended.code == 0
    told = json.loads(ended.out)
    assert told.pop("downloaded_bytes") == sum(len(data) for name, data in contents(folder).items() if name != MANIFEST)
    assert told == {"engine_set": digest, "folder": str(sets / digest), "link": str(sets / "current")}
    pulled = contents(sets / digest)
    pulled.pop(RECORD)
    assert pulled == contents(folder)
    assert (sets / digest / MANIFEST).stat().st_mtime == 1_760_000_000.0
    assert (sets / "current").readlink() == Path(digest), "it holds wherever the folder is mounted"
    assert {path.name for path in sets.iterdir()} == {digest, "current", f".{digest}.lock"}


def test_a_pulled_set_loads_and_verifies_without_writing_into_its_folder(
    engines: Callable[..., Ended], tmp_path: Path
) -> None:
    assert engines("push", tiny_engine_set(), tmp_path / "root").code == 0
    assert engines("pull", tmp_path / "root", "--into", tmp_path / "sets").code == 0
    folder = (tmp_path / "sets" / "current").resolve()
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)  # holds for all but root, for whom the times below are compared
    before = {path: path.stat() for path in (folder, *folder.rglob("*"))}
    assert engines("inspect", tmp_path / "sets" / "current").code == 0
    with load_engine_set(tmp_path / "sets" / "current", device="cpu", threads=1) as loaded:
        loaded.load(COMPONENTS)
        assert loaded.digest == digest_of(tiny_engine_set())
    after = {path: path.stat() for path in (folder, *folder.rglob("*"))}
    assert {path: (each.st_mtime_ns, each.st_ino) for path, each in before.items()} == {
        path: (each.st_mtime_ns, each.st_ino) for path, each in after.items()
    }


def test_what_is_there_is_neither_pushed_nor_pulled_again(engines: Callable[..., Ended], tmp_path: Path) -> None:
    folder, sets = toy_set(tmp_path / "set"), tmp_path / "sets"
    for _ in range(2):
        pushed, pulled = engines("push", folder, tmp_path / "root"), engines("pull", tmp_path / "root", "--into", sets)
        before = {path: path.lstat() for path in (*(tmp_path / "root").rglob("*"), *sets.rglob("*"))}
    assert (json.loads(pushed.out)["files"], json.loads(pushed.out)["uploaded_bytes"]) == (0, 0)
    assert json.loads(pulled.out)["downloaded_bytes"] == 0
    assert "the set is there" in pushed.err
    assert "the set is there" in pulled.err
    after = {path: path.lstat() for path in before}
    assert {path: each.st_mtime_ns for path, each in before.items()} == {
        path: each.st_mtime_ns for path, each in after.items()
    }


def test_a_set_that_is_pinned_by_its_whole_digest_needs_no_bucket_once_it_is_there(
    engines: Callable[..., Ended], tmp_path: Path
) -> None:
    folder, root, sets = pushed_and_pulled(engines, tmp_path)
    root.rename(tmp_path / "away")
    pinned = engines("pull", root, "--into", sets, "--digest", digest_of(folder), "--link", tmp_path / "now")
    assert (pinned.code, json.loads(pinned.out)["downloaded_bytes"]) == (0, 0)
    assert (tmp_path / "now" / MANIFEST).is_file()
    assert engines("pull", root, "--into", sets, "--digest", digest_of(folder)[:20]).code == 8


def test_a_damaged_set_is_mended_by_the_next_pull(engines: Callable[..., Ended], tmp_path: Path) -> None:
    folder, root, sets = pushed_and_pulled(engines, tmp_path)
    digest = digest_of(folder)
    (sets / digest / "unet.onnx").unlink()
    ended = engines("pull", root, "--into", sets)
    assert json.loads(ended.out)["downloaded_bytes"] == (folder / "unet.onnx").stat().st_size
    for spoilt in ("torn", ""):
        (sets / digest / MANIFEST).write_text(spoilt)
        assert engines("pull", root, "--into", sets).code == 0
        assert engines("inspect", sets / "current").code == 0
    assert {path.name for path in sets.iterdir()} == {digest, "current", f".{digest}.lock"}


def test_verify_finds_a_byte_that_sizes_do_not_tell(engines: Callable[..., Ended], tmp_path: Path) -> None:
    folder, root, sets = pushed_and_pulled(engines, tmp_path)
    spoilt = sets / digest_of(folder) / "unet.onnx"
    spoilt.write_bytes(bytes(len(spoilt.read_bytes())))
    assert json.loads(engines("pull", root, "--into", sets).out)["downloaded_bytes"] == 0
    mended = engines("pull", root, "--into", sets, "--verify")
    assert json.loads(mended.out)["downloaded_bytes"] == spoilt.stat().st_size
    assert engines("inspect", sets / "current").code == 0

    stored = place_of(folder, root) / "unet.onnx"
    stored.write_bytes(bytes(len(stored.read_bytes())))
    assert json.loads(engines("push", folder, root).out)["files"] == 0
    assert json.loads(engines("push", folder, root, "--verify").out)["files"] == 1
    assert stored.read_bytes() == (folder / "unet.onnx").read_bytes()


def test_a_set_without_its_record_is_hashed_instead(engines: Callable[..., Ended], tmp_path: Path) -> None:
    folder, root, sets = toy_set(tmp_path / "set"), tmp_path / "root", tmp_path / "sets"
    engines("push", folder, root)
    (place_of(folder, root) / RECORD).unlink()
    engines("pull", root, "--into", sets)
    (sets / digest_of(folder) / RECORD).write_text("torn")
    assert json.loads(engines("pull", root, "--into", sets).out)["downloaded_bytes"] == 0
    (listed,) = json.loads(engines("list", root).out)["sets"]
    assert listed["built_at"] is None


def test_a_manifest_that_says_more_takes_the_place_of_the_old_one(
    engines: Callable[..., Ended], tmp_path: Path
) -> None:
    """A set's digest covers neither the keys of its kernels nor SD1.5's schedule."""
    folder, root, sets = pushed_and_pulled(engines, tmp_path)
    edit_manifest(folder, lambda manifest: manifest.update(kernels={"a_kernel": "its key"}))
    assert json.loads(engines("push", folder, root).out)["files"] == 0
    assert json.loads(engines("pull", root, "--into", sets).out)["downloaded_bytes"] == 0
    assert load_manifest(sets / "current").kernels == {"a_kernel": "its key"}


def test_exports_travel_only_when_they_are_asked_for(engines: Callable[..., Ended], tmp_path: Path) -> None:
    folder, root, sets = tmp_path / "set", tmp_path / "root", tmp_path / "sets"
    toy_set(folder, change=with_plans(folder))
    plans = {f"{name}.plan" for name in COMPONENTS} | {"tokenizer.json", MANIFEST, RECORD}
    exports = {f"{name}.onnx" for name in COMPONENTS}
    engines("push", folder, root)
    engines("pull", root, "--into", sets)
    assert contents(place_of(folder, root)).keys() == contents(sets / "current").keys() == plans

    refused = engines("pull", root, "--into", sets, "--with-exports")
    assert refused.code == 6
    assert "it was pushed without its exports" in refused.err
    assert json.loads(engines("push", folder, root, "--with-exports").out)["files"] == len(exports)
    assert json.loads(engines("push", folder, root, "--with-exports").out)["files"] == 0
    assert json.loads(engines("pull", root, "--into", sets).out)["downloaded_bytes"] == 0
    assert engines("pull", root, "--into", sets, "--with-exports").code == 0
    assert contents(sets / "current").keys() == plans | exports


def test_an_export_of_another_build_of_the_same_set_is_not_taken_for_ours(
    engines: Callable[..., Ended], tmp_path: Path
) -> None:
    """A set's digest covers no exports."""
    root = tmp_path / "root"
    for name, content in (("a", "toy"), ("b", "yot")):
        toy_set(tmp_path / name, content=content, change=with_plans(tmp_path / name))
        (tmp_path / name / "tokenizer.json").write_bytes((tmp_path / "a" / "tokenizer.json").read_bytes())
    manifest = json.loads((tmp_path / "b" / MANIFEST).read_text())
    manifest["tokenizer"] = json.loads((tmp_path / "a" / MANIFEST).read_text())["tokenizer"]
    (tmp_path / "b" / MANIFEST).write_text(json.dumps(manifest))
    assert digest_of(tmp_path / "a") == digest_of(tmp_path / "b")
    engines("push", tmp_path / "a", root, "--with-exports")
    assert json.loads(engines("push", tmp_path / "b", root, "--with-exports").out)["files"] == len(COMPONENTS)
    assert engines("pull", root, "--into", tmp_path / "sets", "--with-exports").code == 0


def test_the_weights_folder_may_be_the_root(engines: Callable[..., Ended], tmp_path: Path) -> None:
    folder = toy_set(tmp_path / "set")
    weights = load_manifest(folder).source.weights
    root = tmp_path / "root"
    assert engines("push", folder, root / weights).code == 0
    assert json.loads(engines("push", folder, root).out)["files"] == 0
    for each in (root, root / weights, f"{(root / weights).as_uri()}/"):
        assert json.loads(engines("pull", each, "--into", tmp_path / "sets").out)["engine_set"] == digest_of(folder)
    other = engines("push", folder, root / ("0" * 64))
    assert other.code == 6
    assert "is the folder of other weights than the set's" in other.err


def test_a_pulled_set_is_readable_for_other_users(
    engines: Callable[..., Ended], tmp_path: Path, umask: Callable[[int], int]
) -> None:
    engines("push", toy_set(tmp_path / "set"), tmp_path / "root")
    umask(0o077)
    engines("pull", tmp_path / "root", "--into", tmp_path / "sets")
    folder = (tmp_path / "sets" / "current").resolve()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}


def test_the_link_may_be_elsewhere_and_changes_in_one_step(engines: Callable[..., Ended], tmp_path: Path) -> None:
    root, sets, link = tmp_path / "root", tmp_path / "cache", tmp_path / "pod" / "current"
    now = time.time()
    for age, content in enumerate("ab"):
        folder = toy_set(tmp_path / content, content=content, built_at=now + age)
        engines("push", folder, root)
        ended = engines("pull", root, "--into", sets, "--link", link)
        assert json.loads(ended.out)["link"] == str(link)
        assert link.readlink() == sets / digest_of(folder)
        assert [path.name for path in link.parent.iterdir()] == ["current"]
    assert (sets / digest_of(tmp_path / "a") / MANIFEST).is_file(), "what another pod uses stays"


@pytest.mark.parametrize("there", ["file", "folder"])
def test_a_link_takes_the_place_of_nothing_but_a_link(
    engines: Callable[..., Ended], tmp_path: Path, there: str
) -> None:
    engines("push", toy_set(tmp_path / "set"), tmp_path / "root")
    link = tmp_path / "here"
    link.mkdir() if there == "folder" else link.write_text("")
    ended = engines("pull", tmp_path / "root", "--into", tmp_path / "sets", "--link", link)
    assert ended.code == 7
    assert f"{link} is a {there} and no link; remove it, or name another place with --link" in ended.err
    assert not (tmp_path / "sets").exists(), "it is said before the download"


def test_a_link_is_not_put_into_the_set(engines: Callable[..., Ended], tmp_path: Path) -> None:
    folder = toy_set(tmp_path / "set")
    engines("push", folder, tmp_path / "root")
    for link in (tmp_path / "sets" / digest_of(folder), tmp_path / "sets" / digest_of(folder) / "current"):
        ended = engines("pull", tmp_path / "root", "--into", tmp_path / "sets", "--link", link)
        assert (ended.code, f"{link} is in the set's own folder" in ended.err) == (7, True)


def test_a_broken_link_is_mended(engines: Callable[..., Ended], tmp_path: Path) -> None:
    folder, sets = toy_set(tmp_path / "set"), tmp_path / "sets"
    engines("push", folder, tmp_path / "root")
    sets.mkdir()
    (sets / "current").symlink_to("nothing")
    (sets / digest_of(folder)).symlink_to("nowhere")
    assert engines("pull", tmp_path / "root", "--into", sets).code == 0
    assert not (sets / digest_of(folder)).is_symlink()
    assert engines("inspect", sets / "current").code == 0


def test_a_root_with_characters_that_mean_something_in_uris(engines: Callable[..., Ended], tmp_path: Path) -> None:
    root = tmp_path / "a b#?%20ü"
    engines("push", toy_set(tmp_path / "set"), root)
    assert engines("pull", root, "--into", tmp_path / "sets").code == 0
    assert engines("pull", root.as_uri(), "--into", tmp_path / "more").code == 0
