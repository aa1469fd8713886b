"""What an error of S3 means, and whose fault it is.

Stores agree on few codes. A verdict follows from the code where it is known, then from words in it that several stores
share (quota, token), then from the HTTP status. The codes are those of AWS, Ceph, MinIO, Swift, Garage, R2, GCS,
Backblaze, Alibaba OSS and StorageGRID.

    verdict      reading                                    writing, listing, deleting
    away         SourceUnavailable (store)                  OutputUnavailable (store)
    full         SourceUnavailable (store): a download cap  OutputFull (store)
    keys         SourceForbidden (worker, unfit)            OutputForbidden (worker, unfit)
    clock        the same                                   the same
    settings     the same                                   the same
    certificate  the same                                   the same
    moved        SourceForbidden (worker)                   OutputForbidden (worker)
    refused      the same                                   the same
    no_bucket    SourceNotFound (job)                       the same
    missing      the same                                   the same
    denied       SourceForbidden (job)                      the same
    unusable     the same                                   OutputForbidden (job)
"""

from __future__ import annotations

import re
from typing import Any, Literal

from botocore.exceptions import (
    BotoCoreError,
    ChecksumError,
    ClientError,
    ConnectionError,
    CredentialRetrievalError,
    EndpointProviderError,
    HTTPClientError,
    IncompleteReadError,
    InvalidDNSNameError,
    InvalidHostLabelError,
    MetadataRetrievalError,
    NoAuthTokenError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSLError,
    SSOError,
    TokenRetrievalError,
    UnsupportedOutpostResourceError,
    UnsupportedS3AccesspointConfigurationError,
    UnsupportedS3ArnError,
    UnsupportedS3ConfigurationError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from jobs.storage.s3_client import ClientRefused

Verdict = Literal[
    "away", "full", "keys", "clock", "settings", "certificate", "moved", "refused", "no_bucket", "missing", "denied",
    "unusable", "spoilt",
]  # fmt: skip

# RuntimeError: boto3 renewed the keys, and the new ones have expired too.
ERRORS = (ClientRefused, ClientError, BotoCoreError, ResponseParserError, HTTPError, OSError, ValueError, RuntimeError)

_BY_CODE: dict[Verdict, frozenset[str]] = {
    "missing": frozenset({"404", "NoSuchKey", "NotFound", "NoSuchVersion"}),
    "no_bucket": frozenset({"NoSuchBucket"}),
    "denied": frozenset({"403", "AccessDenied", "Forbidden", "AllAccessDisabled", "InvalidObjectState"}),
    "clock": frozenset({"RequestTimeTooSkewed", "RequestExpired", "ExpiredRequest", "RequestInTheFuture"}),
    "keys": frozenset(
        {
            "401", "Unauthorized", "UnauthorizedAccess", "AuthFailure", "AuthorizationHeaderMalformed",
            "AuthorizationQueryParametersError", "InvalidSecurity", "MissingSecurityHeader", "MissingSecurityElement",
            "NotSignedUp", "OptInRequired", "AccountProblem", "AccountDisabled", "AccountSuspended", "UserSuspended",
            "UserDisable", "UserDisabled", "InvalidPayer",
        }
    ),
    "moved": frozenset(
        {
            "301", "302", "308", "PermanentRedirect", "PermanentRedirectControlError", "InvalidRegion",
            "IllegalLocationConstraintException",
        }
    ),
    # Those with a status below 500 that still pass: throttling, and uploads that broke off.
    "away": frozenset(
        {
            "RequestTimeout", "RequestTimeoutException", "BandwidthLimitExceeded", "RequestLimitExceeded",
            "PriorRequestNotComplete", "OperationAborted", "ConditionalRequestConflict", "IncompleteBody",
            "NoSuchUpload", "TemporaryRedirect", "Redirect",
        }
    ),
    "unusable": frozenset(
        {
            "InvalidBucketName", "InvalidURI", "KeyTooLong", "KeyTooLongError", "InvalidObjectName",
            "XMinioInvalidObjectName", "XMinioInvalidResourceName",
        }
    ),
    # The store compared what it received with the checksum, the signature or the list of parts that came with it.
    "spoilt": frozenset(
        {
            "BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "InvalidPart",
            "InvalidPartOrder",
        }
    ),
}  # fmt: skip
_CODES: dict[str, Verdict] = {code: verdict for verdict, codes in _BY_CODE.items() for code in codes}

# Looked for in a code that is not above, in this order.
_THROTTLED = re.compile(r"throttl|slow_?down|too_?many_?requests|rate_?limit|throughputexceeded", re.I)
_WORDS: tuple[tuple[re.Pattern[str], Verdict], ...] = (
    (_THROTTLED, "away"),
    (re.compile(r"quota|storage_?(full|limit)|insufficient_?(storage|capacity|space)|cap_?exceeded", re.I), "full"),
    (re.compile(r"continuation", re.I), "refused"),  # a token, but not one of a person
    (re.compile(r"accesskey|token|signature|credential|authenticat", re.I), "keys"),
)
# Looked for in the message of a 403 whose code says nothing: Backblaze's caps, Garage's keys, Swift's dates.
_MESSAGES: tuple[tuple[re.Pattern[str], Verdict], ...] = (
    (re.compile(r"\bcap exceeded|over (its )?quota", re.I), "full"),
    (re.compile(r"clock|skew|not yet current|valid Date\b", re.I), "clock"),
    (re.compile(r"no such (access )?key|invalid signature|authorization mechanism", re.I), "keys"),
)
_AWAY_STATUS = frozenset({307, 408, 425, 429, 499})
_NOT_BUILT = frozenset({501, 505})  # will not pass: the store does not know this request

_KEYS = (
    NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, TokenRetrievalError, NoAuthTokenError,
    SSOError, MetadataRetrievalError,
)  # fmt: skip
_UNUSABLE = (  # a bucket or key that boto3 refuses to send
    ParamValidationError, InvalidDNSNameError, InvalidHostLabelError, UnsupportedS3ArnError,
    UnsupportedS3ConfigurationError, UnsupportedS3AccesspointConfigurationError, UnsupportedOutpostResourceError,
)  # fmt: skip
_AWAY = (HTTPClientError, ConnectionError, IncompleteReadError, ChecksumError, ResponseParserError, HTTPError)
# The names of requests for credentials, which boto3 sends before ours: their answers say nothing about the object.
_FOR_CREDENTIALS = re.compile(r"Assume|Federat|GetRole|GetSession|GetCallerIdentity|CreateToken|OAuth|Credential")
_BAD_AUTHORITY = re.compile(r"certificate verify failed(?!.*(has expired|not yet valid))|No such file|\[X509\]|NO_CERT")


def verdict_of(error: Exception) -> Verdict:
    """What one of ERRORS means."""
    if isinstance(error, ClientRefused):
        return "keys" if isinstance(error.__cause__, _KEYS) else "settings"
    if isinstance(error, ClientError):
        verdict = _of_reply(error)
        asks_for_keys = _FOR_CREDENTIALS.search(error.operation_name) is not None
        return "keys" if asks_for_keys and verdict not in ("away", "clock") else verdict
    return _of_exception(error)


def code_of(error: Exception) -> str:
    """The store's word for it; for an error without a reply, the exception's name."""
    if isinstance(error, ClientRefused):
        return type(error.__cause__).__name__
    if isinstance(error, RecursionError):
        return "PermanentRedirect"
    return str(_answer(error).get("Code", "")) or type(error).__name__


def message_of(error: Exception) -> str:
    """What the store says about it, in one line."""
    return " ".join(str(_answer(error).get("Message", "")).split())


def is_throttled(error: Exception) -> bool:
    """Whether the store serves other requests first."""
    code = code_of(error)
    return code in ("429", "BandwidthLimitExceeded", "RequestLimitExceeded") or _THROTTLED.search(code) is not None


def has_no_body(error: Exception) -> bool:
    """Whether the reply told no more than its status, as those to HEAD requests do."""
    return isinstance(error, ClientError) and code_of(error).isdigit()


def retry_after_seconds(error: Exception) -> float | None:
    """How long the store asks to wait."""
    text = _metadata(error).get("HTTPHeaders", {}).get("retry-after", "")
    return float(text) if re.fullmatch(r"\d{1,6}", text) else None


def _of_reply(error: ClientError) -> Verdict:
    code = code_of(error)
    verdict = _CODES.get(code)
    if verdict is None:
        verdict = next((verdict for words, verdict in _WORDS if words.search(code)), None) or _of_status(_status(error))
    if verdict in ("denied", "refused"):
        return next((other for words, other in _MESSAGES if words.search(message_of(error))), verdict)
    return verdict


def _of_status(status: int) -> Verdict:
    known: dict[int, Verdict] = {
        301: "moved", 302: "moved", 308: "moved", 401: "keys", 403: "denied", 404: "missing", 507: "full",
    }  # fmt: skip
    if status in known:
        return known[status]
    is_away = status in _AWAY_STATUS or (status >= 500 and status not in _NOT_BUILT)
    return "away" if is_away else "refused"


def _of_exception(error: Exception) -> Verdict:
    if isinstance(error, RecursionError):
        return "moved"  # boto3 asks a bucket that is elsewhere where it is, follows the answer, and asks again
    if isinstance(error, (*_KEYS, RuntimeError)):
        return "keys"
    if isinstance(error, _UNUSABLE):
        return "unusable"
    if isinstance(error, SSLError):
        return "certificate" if _BAD_AUTHORITY.search(str(error)) else "away"
    if isinstance(error, HTTPClientError) and isinstance(error.kwargs.get("error"), ValueError):
        return "keys"  # a line break or a letter in a key that no header may have
    if isinstance(error, EndpointProviderError):
        return "settings" if "endpoint" in str(error) else "unusable"
    if isinstance(error, _AWAY):
        return "away"
    if isinstance(error, BotoCoreError):
        return "settings"
    if isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError):
        return "keys"  # of a token's file, or of the program that gives keys: nothing else is opened for a request
    return "away" if isinstance(error, OSError) else "unusable"


def _answer(error: Exception) -> dict[str, Any]:
    return dict(error.response.get("Error", {})) if isinstance(error, ClientError) else {}


def _metadata(error: Exception) -> dict[str, Any]:
    return dict(error.response.get("ResponseMetadata", {})) if isinstance(error, ClientError) else {}


def _status(error: ClientError) -> int:
    code = code_of(error)
    return int(code) if code.isdigit() else int(_metadata(error).get("HTTPStatusCode", 0))
