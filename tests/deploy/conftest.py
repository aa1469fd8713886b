"""For the tests that need containers: one podman for the session, and the images that are built in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.deploy.containers import Containers, require_containers
from tests.deploy.images import Images


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
