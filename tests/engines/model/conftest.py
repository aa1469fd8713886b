"""What the tests of the model layer share."""

from __future__ import annotations

import pytest

from tests.engines.original import Original, make_original


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    """A tiny model in the original layout and in diffusers'."""
    return make_original(tmp_path_factory.mktemp("original"))
