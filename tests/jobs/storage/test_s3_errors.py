"""What stores answer, and whose fault it is: the codes of AWS, Ceph, MinIO, Swift, Garage, R2, GCS and others."""

from __future__ import annotations

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    ReadTimeoutError,
    SSLError,
    SSOTokenLoadError,
)
from botocore.parsers import ResponseParserError

from jobs.errors import OutputForbidden, RenderError, SourceForbidden, TransientError
from jobs.storage.s3_errors import output_error, source_error

URI = "s3://bucket/a.png"


def answer(status: int, code: str = "", message: str = "", *, operation: str = "PutObject") -> ClientError:
    """As boto3 raises it; a reply without a body has the status as its code."""
    error = {"Code": code or str(status), "Message": message}
    return ClientError({"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}}, operation)


def told(error: RenderError) -> tuple[str, str, bool]:
    return error.kind, error.fault, error.unfit


AWAY = (("source_unavailable", "store", False), ("output_unavailable", "store", False))
FULL = (("source_unavailable", "store", False), ("output_full", "store", False))
UNFIT = (("source_forbidden", "worker", True), ("output_forbidden", "worker", True))
REFUSED = (("source_forbidden", "worker", False), ("output_forbidden", "worker", False))
DENIED = (("source_forbidden", "job", False), ("output_forbidden", "worker", False))
MISSING = (("source_not_found", "job", False), ("output_forbidden", "worker", False))
UNUSABLE = (("source_forbidden", "job", False), ("output_forbidden", "job", False))


@pytest.mark.parametrize(
    ("expected", "answers"),
    [
        (
            AWAY,
            [
                (500, "InternalError"), (502, ""), (503, "SlowDown"), (503, "ServiceUnavailable"), (504, ""), (599, ""),
                (400, "RequestTimeout"), (408, ""), (425, ""), (429, ""), (429, "TooManyRequests"),
                (400, "SlowDownWrite"),
                (400, "ThrottlingException"), (400, "KMS.ThrottlingException"), (409, "OperationAborted"),
                (409, "ConditionalRequestConflict"), (503, "XMinioServerNotInitialized"), (503, "SlowDownRead"),
                (404, "NoSuchUpload"), (400, "IncompleteBody"), (307, "TemporaryRedirect"), (307, ""),
                (400, "BandwidthLimitExceeded"), (400, "RequestThrottled"), (503, "Busy"), (429, "rateLimitExceeded"),
            ],
        ),
        (
            FULL,
            [
                (403, "QuotaExceeded"), (507, "XMinioStorageFull"), (507, ""), (400, "XMinioAdminBucketQuotaExceeded"),
                (507, "InsufficientStorage"), (403, "AccessDenied", "Cannot upload files, storage cap exceeded."),
                (403, "StorageQuotaExceeded"), (403, "cap_exceeded"),
            ],
        ),
        (
            UNFIT,
            [
                (403, "InvalidAccessKeyId"), (403, "SignatureDoesNotMatch"), (400, "ExpiredToken"),
                (400, "InvalidToken"),
                (403, "InvalidTokenId"), (400, "TokenRefreshRequired"), (403, "InvalidClientTokenId"), (401, ""),
                (401, "Unauthorized"), (403, "UserSuspended"), (403, "NotSignedUp"), (403, "AccountProblem"),
                (403, "InvalidSecurity"), (400, "AuthorizationHeaderMalformed"), (403, "SecurityTokenExpired"),
                (400, "CredentialsNotSupported"), (403, "RequestTimeTooSkewed"), (400, "ExpiredRequest"),
                (400, "RequestExpired"), (403, "AccessDenied", "Forbidden: No such key: GK31c2f218a2e44f485b94239e"),
                (403, "AccessDenied", "AWS authentication requires a valid Date or x-amz-date header"),
                (400, "InvalidRequest", "The authorization mechanism you have provided is not supported."),
            ],
        ),
        (
            REFUSED,
            [
                (301, "PermanentRedirect"), (301, ""), (400, "IllegalLocationConstraintException"),
                (501, "NotImplemented"),
                (501, ""), (505, ""), (405, "MethodNotAllowed"), (413, "EntityTooLarge"), (411, "MissingContentLength"),
                (400, "InvalidRequest"), (400, "KMS.DisabledException"), (400, "KMS.NotFoundException"),
                (409, "InvalidBucketState"), (412, "PreconditionFailed"), (400, "InvalidArgument"), (407, ""),
                (418, ""),
                (400, "XMinioIncorrectContinuationToken"),
            ],
        ),
        (DENIED, [(403, "AccessDenied"), (403, ""), (403, "AllAccessDisabled"), (403, "InvalidObjectState")]),
        (MISSING, [(404, "NoSuchKey"), (404, ""), (404, "NoSuchBucket"), (404, "NoSuchVersion")]),
        (UNUSABLE, [(400, "InvalidBucketName"), (400, "KeyTooLongError"), (400, "XMinioInvalidObjectName")]),
    ],
    ids=["away", "full", "unfit", "refused", "denied", "missing", "unusable"],
)  # fmt: skip
def test_what_stores_answer(
    expected: tuple[tuple[str, str, bool], tuple[str, str, bool]], answers: list[tuple[int, str]]
) -> None:
    for given in answers:
        error = answer(*given)
        assert (told(source_error(URI, error)), told(output_error(URI, error))) == expected, given


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (EndpointConnectionError(endpoint_url="http://h", error=OSError()), AWAY),
        (ConnectTimeoutError(endpoint_url="http://h"), AWAY),
        (ReadTimeoutError(endpoint_url="http://h"), AWAY),
        (IncompleteReadError(actual_bytes=1, expected_bytes=2), AWAY),
        (HTTPClientError(error=OSError("broken")), AWAY),
        (ResponseParserError("no XML"), AWAY),
        (ConnectionResetError(), AWAY),
        (SSLError(endpoint_url="https://h", error="EOF occurred in violation of protocol"), AWAY),
        (SSLError(endpoint_url="https://h", error="certificate verify failed: certificate has expired"), AWAY),
        (SSLError(endpoint_url="https://h", error="certificate verify failed: self-signed certificate"), UNFIT),
        (SSLError(endpoint_url="https://h", error="certificate verify failed: Hostname mismatch"), UNFIT),
        (NoCredentialsError(), UNFIT),
        (SSOTokenLoadError(error_msg="expired"), UNFIT),
        (RuntimeError("Credentials were refreshed, but the refreshed credentials are still expired."), UNFIT),
        (FileNotFoundError(2, "No such file or directory", "/token"), UNFIT),
        (answer(403, "AccessDenied", operation="AssumeRoleWithWebIdentity"), UNFIT),
        (answer(400, "ExpiredTokenException", operation="AssumeRole"), UNFIT),
        (answer(404, "ResourceNotFoundException", operation="GetRoleCredentials"), UNFIT),
        (answer(503, "ServiceUnavailable", operation="AssumeRole"), AWAY),
        (RecursionError(), REFUSED),
        (ParamValidationError(report="x"), UNUSABLE),
        (UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"), UNUSABLE),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_boto3_raises(error: Exception, expected: tuple[tuple[str, str, bool], tuple[str, str, bool]]) -> None:
    assert (told(source_error(URI, error)), told(output_error(URI, error))) == expected


def test_sentences_say_what_to_do() -> None:
    sentences = {
        "keys": answer(403, "InvalidAccessKeyId"),
        "create it first": answer(404, "NoSuchBucket"),
        "the clock of this machine is wrong": answer(403, "RequestTimeTooSkewed"),
        "set AWS_DEFAULT_REGION, or AWS_ENDPOINT_URL_S3": answer(301, "PermanentRedirect"),
        "the right s3:PutObject": answer(403, "AccessDenied"),
        "no space left": answer(403, "QuotaExceeded"),
        "(NotImplemented: A header you provided)": answer(501, "NotImplemented", "A  header\nyou provided"),
        "(InvalidRequest: " + "x" * 200 + "...)": answer(400, "InvalidRequest", "x" * 5000),
    }
    for words, error in sentences.items():
        sentence = str(output_error(URI, error))
        assert words in sentence
        assert sentence.startswith(f"{URI} ")
    assert "restore it first" in str(source_error(URI, answer(403, "InvalidObjectState", operation="GetObject")))


def test_what_a_refusal_says_holds_for_this_process_only() -> None:
    errors = [source_error(URI, answer(403, "ExpiredToken")), output_error(URI, answer(403, "ExpiredToken"))]
    assert [type(error) for error in errors] == [SourceForbidden, OutputForbidden]
    assert {error.scope for error in errors} == {"machine"}


@pytest.mark.parametrize(
    ("code", "throttled"),
    [("SlowDown", True), ("429", True), ("RequestThrottled", True), ("InternalError", False), ("503", False)],
)
def test_a_throttled_request_is_not_the_files_fault(code: str, throttled: bool) -> None:
    for error in (source_error(URI, answer(503, code)), output_error(URI, answer(503, code))):
        assert isinstance(error, TransientError)
        assert error.blameless == throttled


@pytest.mark.parametrize(
    "error",
    [answer(403, "AccessDenied"), answer(403, "QuotaExceeded"), answer(404, "NoSuchBucket"), answer(503, "SlowDown")],
    ids=["denied", "full", "missing", "away"],
)
def test_a_signature_in_a_key_is_not_shown(error: ClientError) -> None:
    uri = "s3://b/a.png?X-Amz-Signature=hunter2&X-Amz-Credential=hunter2"
    for refusal in (source_error(uri, error), output_error(uri, error)):
        assert "s3://b/a.png?X-Amz-Signature=…" in str(refusal)
        assert "hunter2" not in str(refusal)
