"""The S3 store that this process and those that it starts use, for tests of whole programs."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.storage import s3
from tests.odd_s3_store import OddStore, odd_store


@contextmanager
def own_odd_store(
    monkeypatch: pytest.MonkeyPatch, folder: Path, *, tls: ssl.SSLContext | None = None, **variables: str
) -> Iterator[OddStore]:
    """An odd store with keys for it. This machine's own AWS settings are hidden, and `variables` are set, too.

    `folder` holds no file `none`.
    """
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with odd_store(tls=tls) as store:
        variables |= {
            "AWS_ENDPOINT_URL_S3": store.url,
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(folder / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        s3.forget_client()
        yield store
    s3.forget_client()
