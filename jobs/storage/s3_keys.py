"""Requests to S3 that outlive a change of keys: one whose keys were refused is repeated with the keys of now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from jobs.storage.s3_client import current, renewed
from jobs.storage.s3_verdict import ERRORS, verdict_of

Value = TypeVar("Value")


def with_keys(bucket: str, call: Callable[[Any], Value]) -> Value:
    """What `call` returns for the process's client. It is called once more where the store refused the client's keys.

    boto3 itself renews the keys of providers that say when they expire (roles, instances, containers), but reads keys
    in a credentials file only once. A program that changes the file does so while jobs hold pictures that are rendered
    already, so every job that meets the old keys must get the new ones. `call` must be safe to repeat from its start.

    Raises:
        s3_verdict.ERRORS: as boto3 raises them.
    """
    made = current()
    try:
        value = call(made.client)
    except ERRORS as error:
        other = renewed(made, bucket) if verdict_of(error) == "keys" else None
        if other is None:
            raise
        made, value = other, call(other.client)
    made.accepted.add(bucket)
    return value
