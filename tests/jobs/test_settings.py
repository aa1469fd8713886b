"""Settings: the environment is read once, and a bad value stops start-up with the variable's name."""

from __future__ import annotations

import tomllib

import pytest

import jobs
from jobs.errors import SettingsError
from jobs.settings import load_settings, misspelt_variables
from tools import ROOT


def test_defaults_need_no_environment() -> None:
    assert load_settings().queue == "render"


def test_a_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of")
    monkeypatch.setenv("RENDER_CACHE_DIR", "~/cache")
    assert load_settings().cache_dir == "/home/of/cache"
    monkeypatch.setenv("RENDER_JOBS_IN_FLIGHT", "4")
    monkeypatch.setenv("RENDER_ALLOW_HOSTS", "a.example, B.example, [::1], fd00::1")
    assert load_settings().jobs_in_flight == 4
    assert load_settings().allow_hosts == ("a.example", "b.example", "::1", "fd00::1")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RENDER_JOBS_IN_FLIGHT", "many"),
        ("RENDER_MAX_BATCH", "0"),
        ("RENDER_DEVICE", "tpu"),
        ("RENDER_METRICS_HOST", ""),  # all addresses of the machine, to the operating system
        ("RENDER_KEEP_HOST", ""),
        ("RENDER_CACHE_DIR", ""),
        ("RENDER_CACHE_DIR", "~nobody-of-this-name/cache"),
        ("RENDER_ENGINE_DIR", "~nobody-of-this-name/models"),
        ("RENDER_GRACE_SECONDS", "inf"),  # what waits so long raises OverflowError
        ("RENDER_FETCH_TIMEOUT_SECONDS", "1e10"),
        ("RENDER_RECONCILE_SECONDS", "nan"),
        ("RENDER_THREADS", "100000"),  # libraries crash
        ("RENDER_RETRY_ATTEMPTS", "5000"),  # the pause is no float from 1,024 on
        ("RENDER_FETCH_MAX_BYTES", "99999999999999999999"),
    ],
)
def test_a_bad_value_names_its_variable(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"{variable}.*{value}"):
        load_settings()


@pytest.mark.parametrize(
    "host", ["a.example:8080", "https://a.example", "*.example", "a.example/path", "a@b", "[::1]:80"]
)
@pytest.mark.parametrize("name", ["RENDER_ALLOW_HOSTS", "RENDER_KEEP_NAMES"])
def test_what_could_match_no_host_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, host: str) -> None:
    monkeypatch.setenv(name, f"good.example,{host}")
    with pytest.raises(SettingsError, match=f"{name}.*is not a host's name or address alone"):
        load_settings()


@pytest.mark.parametrize("bucket", ["s3://photos", "photos/2026", "photo*", "my photos"])
def test_what_could_match_no_bucket_is_refused(bucket: str) -> None:
    assert load_settings(allow_buckets="a, b").allow_buckets == ("a", "b")
    with pytest.raises(SettingsError, match=r"RENDER_ALLOW_BUCKETS.*is not a bucket's name alone"):
        load_settings(allow_buckets=f"good,{bucket}")


@pytest.mark.parametrize("seconds", ["inf", "1e15"])
def test_a_lease_that_redis_cannot_keep_is_refused(seconds: str) -> None:
    """Such a worker sent no heartbeat, so that others rendered its jobs as well."""
    with pytest.raises(SettingsError, match=r"RENDER_LEASE_SECONDS.*1000000"):
        load_settings(lease_seconds=seconds)


def test_a_variable_that_is_almost_a_setting_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert misspelt_variables() == {}
    for name in ("RENDER_OUTPUT_URL", "RENDER_ALLOW_FOLDER", "RENDER_QUEUE", "render_max_batch", "RENDER_SERVICE_ID"):
        monkeypatch.setenv(name, "x")
    assert misspelt_variables() == {
        "RENDER_ALLOW_FOLDER": "RENDER_ALLOW_FOLDERS",
        "RENDER_OUTPUT_URL": "RENDER_OUTPUT_URI",
    }


def test_the_version_that_hosts_see_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert jobs.__version__ == project["version"]


def test_a_lease_shorter_than_two_heartbeats_is_refused() -> None:
    with pytest.raises(SettingsError, match="RENDER_LEASE_SECONDS"):
        load_settings(lease_seconds=5, heartbeat_seconds=5)
