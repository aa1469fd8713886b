"""Workers of one digest refuse the same jobs."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.settings import AwsIdentity, load_settings
from jobs.storage.access_policy import AccessPolicy
from worker.settings_digest import settings_digest


def digest(*, engine_set: str = "set", identity: dict[str, Any] | None = None, **settings: Any) -> str:
    loaded = load_settings(**settings)
    aws = AwsIdentity(**{"access_key_id": "A", "profile": None} | (identity or {}))
    return settings_digest(loaded, policy=AccessPolicy.of(loaded), engine_set=engine_set, identity=aws)


def test_it_ignores_what_differs_between_equal_workers_and_the_order_of_lists() -> None:
    first = digest(allow_folders="/a,/b", metrics_port=9000, threads=4, jobs_in_flight=3)
    assert digest(allow_folders="/b,/a,/a", metrics_port=9001, threads=8, jobs_in_flight=16) == first


@pytest.mark.parametrize(
    "other",
    [
        {"allow_folders": "/a"},
        {"allow_buckets": "a"},
        {"allow_hosts": "a"},
        {"output_uri": "s3://b/out"},
        {"fetch_max_bytes": 5},
        {"max_pixels": 5},
        {"engine_set": "another"},
        {"identity": {"access_key_id": "B"}},
        {"identity": {"endpoint_url_s3": "https://elsewhere"}},
    ],
    ids=str,
)
def test_it_differs_with_everything_that_decides_what_is_refused(other: dict[str, Any]) -> None:
    assert digest(**other) != digest()


def test_the_environment_names_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "one")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    first = settings_digest(settings, policy=AccessPolicy(), engine_set="set")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret")
    assert settings_digest(settings, policy=AccessPolicy(), engine_set="set") == first
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "two")
    assert settings_digest(settings, policy=AccessPolicy(), engine_set="set") != first
