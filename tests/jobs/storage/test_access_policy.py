"""What a job may name: folders by their real paths, buckets by name, outputs below the operator's."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import OutputForbidden, RenderError, SettingsError, SourceForbidden
from jobs.settings import load_settings
from jobs.storage.access_policy import AccessPolicy
from jobs.storage.http import FetchLimits
from jobs.storage.store import read_bytes


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    """A folder with a picture, beside a secret that is outside."""
    (tmp_path / "secret").write_bytes(b"secret")
    folder = tmp_path / "allowed"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"picture")
    return folder


def test_a_file_in_an_allowed_folder_is_read(allowed: Path) -> None:
    limits = FetchLimits(policy=AccessPolicy((str(allowed),)))
    assert read_bytes((allowed / "a.png").as_uri(), limits) == b"picture"
    assert read_bytes(f"file://localhost{allowed}/x/../a.png", limits) == b"picture"


@pytest.mark.parametrize("name", ["secret", "allowed/../secret", "allowed/%2e%2e/secret", "allowed2/a", "missing", ""])
def test_a_file_outside_is_refused_whether_it_exists_or_not(allowed: Path, name: str) -> None:
    limits = FetchLimits(policy=AccessPolicy((str(allowed),)))
    with pytest.raises(SourceForbidden, match="RENDER_ALLOW_FOLDERS"):
        read_bytes(f"file://{allowed.parent}/{name}", limits)


def test_without_folders_no_file_is_read(allowed: Path) -> None:
    with pytest.raises(SourceForbidden, match="RENDER_ALLOW_FOLDERS"):
        read_bytes((allowed / "a.png").as_uri(), FetchLimits(policy=AccessPolicy()))


def test_a_link_is_followed_before_it_is_judged(allowed: Path) -> None:
    (allowed / "out").symlink_to(allowed.parent / "secret")
    (allowed / "in").symlink_to(allowed / "a.png")
    (allowed.parent / "way-in").symlink_to(allowed)
    limits = FetchLimits(policy=AccessPolicy((str(allowed.parent / "way-in"),)))
    with pytest.raises(SourceForbidden, match="secret may not be read"):
        read_bytes((allowed / "out").as_uri(), limits)
    assert read_bytes((allowed / "in").as_uri(), limits) == b"picture"
    assert read_bytes((allowed.parent / "way-in" / "a.png").as_uri(), limits) == b"picture"


@pytest.mark.parametrize("uri", ["file:///a%00b", "file:///\ud800", "file:///" + "a" * 4000, "file://", "file:///"])
def test_an_unusable_path_is_refused_with_a_sentence(allowed: Path, uri: str) -> None:
    with pytest.raises(SourceForbidden, match=r"RENDER_ALLOW_FOLDERS|not a usable path"):
        read_bytes(uri, FetchLimits(policy=AccessPolicy((str(allowed),))))
    with pytest.raises(OutputForbidden, match=r"RENDER_ALLOW_FOLDERS|not a usable path"):
        AccessPolicy((str(allowed),)).check_output(uri)


def test_files_are_written_below_the_operators_output_and_in_allowed_folders_alone(allowed: Path) -> None:
    output = allowed.parent / "output"
    policy = AccessPolicy((str(allowed),), output=output.as_uri())
    policy.check_output((output / "batch").as_uri())
    policy.check_output((allowed / "batch").as_uri())
    for elsewhere in ("file:///etc/batch", (output / ".." / "batch").as_uri(), f"{output.as_uri()}-2/batch"):
        with pytest.raises(OutputForbidden, match="RENDER_OUTPUT_URI"):
            policy.check_output(elsewhere)
    output.mkdir()
    (output / "batch").symlink_to("/etc")
    with pytest.raises(OutputForbidden, match="/etc may not be written"):
        policy.check_output((output / "batch").as_uri())


def test_any_bucket_will_do_where_none_is_named() -> None:
    AccessPolicy().check_source("s3://any/a.png")
    AccessPolicy().check_output("s3://any/batch")


def test_named_buckets_are_the_only_ones_besides_the_output() -> None:
    policy = AccessPolicy(buckets=("inputs",), output="s3://renders/spring")
    policy.check_source("s3://inputs/a.png")
    policy.check_output("s3://inputs/batch")
    policy.check_output("s3://renders/spring/batch")
    for source in ("s3://other/a.png", "s3://renders/spring/a.png", "s3://inputs/../other/a.png", "s3://[", "s3://"):
        with pytest.raises(SourceForbidden, match="RENDER_ALLOW_BUCKETS"):
            policy.check_source(source)
    for output in ("s3://renders/spring-2/b", "s3://renders/b", "s3://renders/spring/../b", "s3://inputs@other/b"):
        with pytest.raises(OutputForbidden, match="RENDER_ALLOW_BUCKETS"):
            policy.check_output(output)


def test_a_refused_bucket_is_not_asked_for_anything() -> None:
    with pytest.raises(SourceForbidden, match="the bucket 'other'"):
        read_bytes("s3://other/a.png", FetchLimits(policy=AccessPolicy(buckets=("inputs",))))


def test_what_a_policy_refuses_is_the_fault_of_its_settings_and_what_no_file_can_be_is_the_jobs(allowed: Path) -> None:
    policy = AccessPolicy((str(allowed),), buckets=("inputs",))
    for check, uri in (
        (policy.check_source, "file:///etc/passwd"),
        (policy.check_source, "s3://other/a.png"),
        (policy.check_output, "file:///etc/batch"),
        (policy.check_output, "s3://other/batch"),
    ):
        with pytest.raises(RenderError) as caught:
            check(uri)
        # 'settings': a worker with other allow-lists may take the job. Not unfit: this one takes others.
        assert (caught.value.fault, caught.value.scope, caught.value.unfit) == ("worker", "settings", False)
    for check in (policy.check_source, policy.check_output):
        with pytest.raises(RenderError) as caught:
            check("file:///a%00b")
        assert caught.value.fault == "job"


def test_settings_name_folders_as_paths_or_uris(allowed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(allowed.parent)
    settings = load_settings(allow_folders=f"allowed, {Path('/a b').as_uri()}", output_uri="out", allow_buckets="x,y")
    policy = AccessPolicy.of(settings)
    assert policy == AccessPolicy((str(allowed), "/a b"), ("x", "y"), (allowed.parent / "out").as_uri())


@pytest.mark.parametrize(
    ("variable", "setting"),
    [("RENDER_ALLOW_FOLDERS", {"allow_folders": "s3://b/k"}), ("RENDER_OUTPUT_URI", {"output_uri": "https://h/p"})],
)
def test_a_place_that_is_none_stops_the_start(variable: str, setting: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match=variable):
        AccessPolicy.of(load_settings(**setting))
