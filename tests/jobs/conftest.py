from __future__ import annotations

import socket

import pytest

from tests.jobs.resolver import Resolver


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    """The process's resolver, with answers of the test's making."""
    fake = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", fake.getaddrinfo)
    return fake
