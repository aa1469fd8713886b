"""What a build does again, what it reuses, and what it leaves behind when it is stopped."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engines.backends import stages
from engines.build.builder import Step, build_set
from engines.build.staging import PROGRESS, publish, staging
from engines.engine_set import load_engine_set
from engines.errors import BuildFailed, EngineSetRefused, ModelRefused
from engines.file_check import check_files
from engines.manifest import MANIFEST, installed_version, load_manifest
from tests.engines.sets import copy_of_model, edit_manifest, request_for, train_a_little
from tests.small_disk import small_file_system

# torch sets: tokenizer, text encoder, ControlNet (for hint and controlnet at once), U-Net, VAE.
ALL_STAGES = 5


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return copy_of_model(tmp_path)


@pytest.fixture
def out(tmp_path: Path, weights: Path) -> Path:
    """A finished set of `weights`."""
    built = build_set(request_for(weights, tmp_path / "set"))
    assert (built.steps, built.changed) == (ALL_STAGES, True)
    return tmp_path / "set"


class Stop(Exception):
    """A build is stopped by its own report."""


def stop_at(state: str, component: str, stage: str = "weights") -> Callable[[Step], None]:
    def report(step: Step) -> None:
        if (step.state, step.component, step.stage) == (state, component, stage):
            raise Stop

    return report


@pytest.mark.parametrize("size", ["16k", "500k"])
def test_a_full_disk_is_said_by_whatever_library_meets_it(weights: Path, tmp_path: Path, size: str) -> None:
    """The tokenizer's is the first file, of 38 kB. It and weights are written in Rust, whose errors are no OSError."""
    with small_file_system(tmp_path / "disk", size=size) as disk:
        with pytest.raises(BuildFailed, match=r"disk/set\.building: No space left on device$"):
            build_set(request_for(weights, disk / "set"))


def test_a_set_that_is_up_to_date_is_left_alone(weights: Path, out: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    built = build_set(request_for(weights, out))
    assert (built.steps, built.changed) == (0, False)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert not out.with_name("set.building").exists()


@pytest.mark.parametrize("network", ["model/unet", "model/text_encoder", "model/vae", "controlnet"])
def test_other_weights_are_built_anew(weights: Path, out: Path, network: str) -> None:
    before = load_manifest(out)
    train_a_little(weights / network)
    built = build_set(request_for(weights, out))
    assert built.steps == ALL_STAGES
    assert built.manifest.source.weights != before.source.weights
    assert built.manifest.digest != before.digest
    check_files(out, load_manifest(out).files)


def test_other_shapes_change_the_set_without_doing_anything_again(weights: Path, out: Path) -> None:
    before = load_manifest(out)
    built = build_set(request_for(weights, out, shape="128x128"))
    assert (built.steps, built.changed) == (0, True)
    assert load_manifest(out).shapes_text == "128x128"
    assert load_manifest(out).digest != before.digest


def test_another_precision_is_built_anew(weights: Path, out: Path) -> None:
    built = build_set(request_for(weights, out, precision="fp16"))
    assert built.steps == ALL_STAGES - 1  # the tokenizer has no precision
    assert load_manifest(out).precision == "fp16"


def test_another_version_of_a_library_builds_what_it_makes_anew(
    weights: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = installed_version
    monkeypatch.setattr(stages, "installed_version", lambda name: "0.0.1" if name == "diffusers" else installed(name))
    built = build_set(request_for(weights, out))
    assert built.steps == ALL_STAGES - 1  # the tokenizer is transformers' work
    assert built.manifest.versions["diffusers"] == "0.0.1"


def test_a_changed_file_is_made_again(weights: Path, out: Path) -> None:
    config = out / "weights" / "unet" / "config.json"
    original = config.read_bytes()
    config.write_bytes(original + b" ")
    assert build_set(request_for(weights, out)).steps == 1
    assert config.read_bytes() == original


def test_a_file_is_not_taken_because_it_exists(weights: Path, out: Path) -> None:
    """The files are whole, but nothing says what they were made from."""
    edit_manifest(out, lambda manifest: manifest["components"]["unet"]["stages"]["weights"].update(key="another"))
    assert build_set(request_for(weights, out)).steps == 1


def test_a_set_without_a_valid_manifest_is_made_from_nothing(weights: Path, out: Path) -> None:
    (out / MANIFEST).write_text("{}")
    assert build_set(request_for(weights, out)).steps == ALL_STAGES
    assert load_engine_set(out).manifest == load_manifest(out)


@pytest.mark.parametrize("foreign", ["notes.txt", "weights/unet/config.json"])
def test_a_folder_that_is_no_set_is_not_overwritten(weights: Path, tmp_path: Path, foreign: str) -> None:
    path = tmp_path / "mine" / foreign
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    with pytest.raises(BuildFailed, match="is not empty and is not an engine set; name another folder with --out"):
        build_set(request_for(weights, tmp_path / "mine"))
    assert path.read_text() == "precious"


def test_a_build_that_fails_leaves_the_old_set_as_it_was(weights: Path, out: Path) -> None:
    before = load_manifest(out)
    (path,) = (weights / "model" / "vae").glob("*.safetensors")
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ModelRefused, match=r"vae cannot be read as SD1.5's vae"):
        build_set(request_for(weights, out))
    assert load_manifest(out) == before
    check_files(out, before.files)


def test_a_killed_build_leaves_no_set_and_goes_on_where_it_was(weights: Path, tmp_path: Path) -> None:
    """A real process, a real SIGKILL, after two of five stages."""
    out = tmp_path / "set"
    script = f"""
import os, signal
from pathlib import Path
from engines.build.builder import build_set
from tests.engines.sets import request_for
done = []
def report(step):
    done.append(step) if step.state == "done" else None
    if len(done) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
build_set(request_for(Path({str(weights)!r}), Path({str(out)!r})), report)
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    with pytest.raises(EngineSetRefused, match=r"set.building is not a finished engine set: it has no manifest.json"):
        load_engine_set(out.with_name("set.building"))
    states: list[Step] = []
    assert build_set(request_for(weights, out), states.append).steps == ALL_STAGES - 2
    assert [step.component for step in states if step.state == "reused"][:2] == ["tokenizer", "clip"]
    check_files(out, load_manifest(out).files)
    assert not out.with_name("set.building").exists()


def test_what_a_killed_build_had_made_of_other_weights_is_not_taken(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        build_set(request_for(weights, tmp_path / "set"), stop_at("done", "unet"))
    train_a_little(weights / "model" / "unet")
    assert build_set(request_for(weights, tmp_path / "set")).steps == ALL_STAGES


def test_a_file_that_a_killed_build_left_half_written_is_made_again(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        build_set(request_for(weights, tmp_path / "set"), stop_at("done", "unet"))
    os.truncate(tmp_path / "set.building" / "weights" / "unet" / "diffusion_pytorch_model.safetensors", 100)
    assert build_set(request_for(weights, tmp_path / "set")).steps == 2  # and the VAE, which was not begun


def test_the_old_set_survives_a_build_that_was_stopped_twice_on_its_way_to_another(weights: Path, out: Path) -> None:
    """The first one reuses files of the old set; the second writes files of the same names."""
    before = load_manifest(out)
    with pytest.raises(Stop):
        build_set(request_for(weights, out, shape="128x128"), stop_at("reused", "decoder"))
    with pytest.raises(Stop):
        build_set(request_for(weights, out, precision="fp16"), stop_at("done", "decoder"))
    assert load_manifest(out) == before
    check_files(out, before.files)


def test_two_builds_of_one_set_do_not_mix(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set.building"
    folder.mkdir()
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BuildFailed, match="another build is writing"):
            build_set(request_for(weights, tmp_path / "set"))
    finally:
        os.close(lock)


def test_a_build_that_ends_leaves_the_next_ones_folder_alone(tmp_path: Path) -> None:
    """The old set takes its time to be removed, and another build may begin meanwhile."""
    with staging(tmp_path / "set") as first:
        (first / "file").write_text("first")
        publish(first, tmp_path / "set", ["file"])
        with staging(tmp_path / "set") as second:
            (second / PROGRESS).write_text("{}")
    assert not (tmp_path / "set.building").exists()
    with contextlib.suppress(Stop), staging(tmp_path / "set") as first:
        publish(first, tmp_path / "set", [])
        second = tmp_path / "set.building"
        second.mkdir()
        (second / PROGRESS).write_text("{}")
    assert (second / PROGRESS).exists()


def test_a_rename_that_fails_keeps_the_old_set_and_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "set"
    out.mkdir()
    (out / "old").write_text("")
    rename = Path.rename

    def busy(path: Path, target: Path) -> Path:
        if path.name == "set.building":
            raise OSError(errno.EBUSY, "Device or resource busy", str(path))
        return rename(path, target)

    def build() -> None:
        with staging(out) as folder:
            (folder / PROGRESS).write_text("{}")
            (folder / "new").write_text("")
            publish(folder, out, ["new"])

    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(BuildFailed, match=r"set\.building: Device or resource busy"):
        build()
    assert [path.name for path in out.iterdir()] == ["old"]
    assert {path.name for path in (tmp_path / "set.building").iterdir()} == {PROGRESS, "new"}


@pytest.mark.parametrize("target", ["link", ".", ".."])
def test_a_target_whose_place_no_folder_can_take_is_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    """To replace a link would leave the set that it names as it was, and that of `pull` has a digest as its name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to("sets")
    with pytest.raises(BuildFailed, match=r"link is a link to sets; name|is replaced as a whole, so it needs a name"):
        build_set(request_for(tmp_path / "no weights", Path(target)))


def test_a_place_that_cannot_be_written_is_named(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildFailed, match=r"file/set.building cannot be made: Not a directory"):
        build_set(request_for(weights, tmp_path / "file" / "set"))


def test_a_set_may_be_moved_and_copied(weights: Path, out: Path, tmp_path: Path) -> None:
    digest = load_manifest(out).digest
    moved = shutil.move(out, tmp_path / "elsewhere")
    shutil.rmtree(weights)
    assert load_engine_set(moved).digest == digest
