"""The errors that S3 ends in: whose fault, and a sentence that says what to do. s3_verdict.py says what S3 means."""

from __future__ import annotations

import re
from dataclasses import dataclass

from jobs.errors import (
    OutputForbidden,
    OutputFull,
    OutputUnavailable,
    RenderError,
    SourceForbidden,
    SourceNotFound,
    SourceUnavailable,
    TransientError,
)
from jobs.storage.s3_client import ClientRefused
from jobs.storage.s3_verdict import Verdict, code_of, is_throttled, message_of, retry_after_seconds, verdict_of
from jobs.uri import bucket_and_key, redacted

LONGEST_MESSAGE = 200  # characters of what the store says

_OF_THIS_PROCESS: frozenset[Verdict] = frozenset({"keys", "clock", "settings", "certificate"})
_RIGHT = re.compile(r"\b(?:s3|s3express|kms|s3-object-lambda):[A-Za-z]+\b")
_USER_OF_A_URL = re.compile(r"//[^/@\s]*@")


@dataclass(frozen=True)
class Action:
    """What was tried: 'may not be `done`', and the right on the bucket that it takes."""

    done: str
    right: str


READ = Action("read", "s3:GetObject")
WRITE = Action("written", "s3:PutObject")
LIST = Action("listed", "s3:ListBucket")
DELETE = Action("deleted", "s3:DeleteObject")
LOOK = Action("looked up", "s3:GetObject")


def source_error(uri: str, error: Exception) -> RenderError:
    """Our error for one of s3_verdict.ERRORS while reading."""
    verdict, shown = verdict_of(error), redacted(uri)
    if verdict in ("away", "full", "spoilt"):
        return _later(SourceUnavailable(f"{shown} could not be read: {code_of(error)}", fault="store"), error)
    if verdict in ("missing", "no_bucket"):
        return SourceNotFound(f"{shown} does not exist ({code_of(error)})")
    text = f"{shown} may not be read: {_why(uri, error, READ)}"
    if verdict in ("denied", "unusable"):
        return SourceForbidden(text)
    return SourceForbidden(text, fault="worker", unfit=_unfit(verdict))


def output_error(uri: str, error: Exception, action: Action = WRITE) -> RenderError:
    """Our error for one of s3_verdict.ERRORS while doing anything else."""
    verdict, shown = verdict_of(error), redacted(uri)
    if verdict == "away":
        return _later(OutputUnavailable(f"{shown} could not be {action.done}: {code_of(error)}"), error)
    if verdict == "full":
        return OutputFull(f"{shown} cannot be {action.done}: no space left ({code_of(error)})", fault="store")
    if verdict in ("missing", "no_bucket"):
        bucket = bucket_and_key(uri)[0]
        return OutputForbidden(
            f"{shown} cannot be {action.done}: the bucket {bucket!r} does not exist; create it first"
        )
    text = f"{shown} may not be {action.done}: {_why(uri, error, action)}"
    if verdict == "unusable":
        return OutputForbidden(text, fault="job")
    return OutputForbidden(text, unfit=_unfit(verdict))


def _unfit(verdict: Verdict) -> bool:
    """Whether no request of this process can succeed."""
    return verdict in _OF_THIS_PROCESS


def _later(unavailable: TransientError, error: Exception) -> TransientError:
    unavailable.retry_after_seconds = retry_after_seconds(error)
    unavailable.blameless = is_throttled(error)
    return unavailable


def _why(uri: str, error: Exception, action: Action) -> str:
    code, verdict = code_of(error), verdict_of(error)
    reasons: dict[Verdict, str] = {
        "unusable": "not a usable bucket or key",
        "clock": f"the clock of this machine is wrong, says the store ({code}); set it, for instance by NTP",
        "moved": f"the bucket {bucket_and_key(uri)[0]!r} is in another region or at another address ({code}); "
        "set AWS_DEFAULT_REGION, or AWS_ENDPOINT_URL_S3 for compatible stores",
        "certificate": "the store's certificate is not valid here: no authority that this machine trusts signed it for "
        "this name; check AWS_CA_BUNDLE and AWS_ENDPOINT_URL_S3",
        "keys": f"the AWS keys of this machine are missing, wrong or expired ({code}); check AWS_ACCESS_KEY_ID, "
        "AWS_SECRET_ACCESS_KEY or the profile, and, for compatible stores, AWS_DEFAULT_REGION and AWS_ENDPOINT_URL_S3",
        "settings": f"boto3 refuses the AWS settings of this machine: {_said(_cause(error))}; "
        "check AWS_PROFILE, AWS_DEFAULT_REGION and AWS_ENDPOINT_URL_S3",
        "denied": _denied(error, action),
    }
    return reasons.get(verdict) or f"the store refuses the request ({code}: {_said(message_of(error))})"


def _denied(error: Exception, action: Action) -> str:
    code, message = code_of(error), message_of(error)
    if code == "InvalidObjectState":
        return f"it is archived ({code}); restore it first"
    named = _RIGHT.search(message)
    missing = f"the AWS keys of this machine lack the right {named.group() if named else action.right}"
    # S3 does not tell those who may not list a bucket whether an object is there.
    hidden = ", or it does not exist and they lack s3:ListBucket" if action is READ and named is None else ""
    return f"{code}; {missing}{hidden}"


def _cause(error: Exception) -> str:
    return str(error.__cause__ if isinstance(error, ClientRefused) else error)


def _said(text: str) -> str:
    line = _USER_OF_A_URL.sub("//***@", " ".join(text.split()))
    return line if len(line) <= LONGEST_MESSAGE else line[:LONGEST_MESSAGE] + "..."
