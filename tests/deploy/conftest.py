"""For the tests that need containers: one podman for the session, and the images that are built in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.containers import Containers, require_containers
from tests.deploy.images import Images

HERE = Path(__file__).parent
SECONDS = 1500  # two downloads, each with two tries of tools.DOWNLOAD_SECONDS; no test needs more


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests of this folder time for downloads, where they do not name a time of their own."""
    for item in items:
        if item.path.is_relative_to(HERE) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SECONDS))


@pytest.fixture(scope="session")
def containers() -> Iterator[Containers]:
    """podman, with a storage of the tests' own. Skips at a desk that cannot run containers; fails in CI."""
    require_containers()
    with Containers() as session:
        yield session


@pytest.fixture(scope="session")
def images(containers: Containers) -> Images:
    """Builds the images that a test asks for, once a session."""
    return Images(containers)
