"""By which names a browser may call: no page of another site can make its name mean this machine."""

from __future__ import annotations

import pytest

from jobs.settings import Settings
from producer.keep.hosts import Hosts


@pytest.fixture
def hosts() -> Hosts:
    return Hosts.of(Settings(keep_names=("Renders.Example.org",)), "0.0.0.0")


@pytest.mark.parametrize(
    "header",
    [
        None,  # no browser
        "127.0.0.1",
        "127.0.0.1:9808",
        "10.1.2.3:9808",
        "[::1]:9808",
        "[fe80::1]",
        "localhost:9808",
        "LOCALHOST",
        "localhost.",
        "batch-renderer-keep:9808",
        "batch-renderer-keep.renders.svc:9808",
        "batch-renderer-keep.renders.svc.cluster.local",
        "gpu1.local:9808",
        "renders.example.org",
        "renders.example.ORG:443",
    ],
)
def test_names_that_only_this_network_knows_and_those_of_the_settings(hosts: Hosts, header: str | None) -> None:
    assert hosts.refusal(header) is None


def test_a_name_of_the_settings_may_end_in_a_dot() -> None:
    hosts = Hosts.of(Settings(keep_names=("renders.example.org.",)), "0.0.0.0")
    assert hosts.refusal("renders.example.org:9808") is None
    assert hosts.refusal("renders.example.org.") is None
    assert hosts.refusal("other.example.org.") is not None


@pytest.mark.parametrize(
    "header",
    [
        "evil.example",
        "evil.example:9808",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "evil-localhost.example",
        "sub.renders.example.org",
        "notlocal.example.localx",
        "[evil.example]",
        "::1",
        "",
        " ",
        ":9808",
        "a:b:c",
    ],
)
def test_names_that_anybody_may_own(hosts: Hosts, header: str) -> None:
    refusal = hosts.refusal(header)
    assert refusal is not None
    assert "RENDER_KEEP_NAMES" in refusal
    assert "evil" not in refusal
