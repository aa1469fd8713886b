"""Stores that are not S3, over TLS: what is uploaded arrives as it was sent, or the upload ends with an error."""

from __future__ import annotations

import hashlib
import os
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
import trustme

from jobs.errors import OutputForbidden, OutputUnavailable, SourceForbidden, SourceNotFound
from jobs.job import RenderResult
from jobs.ledger.reconcile import reconcile
from jobs.storage import s3, s3_client
from jobs.storage.limits import FetchLimits
from jobs.storage.s3_upload import _OTHER_ETAGS
from jobs.storage.store import read_bytes, store_for
from tests.eventually import eventually
from tests.integration.conftest import Site
from tests.jobs.rows import enqueue, make_job
from tests.odd_s3_store import OddStore, Refusal, md5
from tests.own_s3_store import own_odd_store

SMALL = os.urandom(100_000)
LARGE = os.urandom(s3.SINGLE_PUT_BYTES + 1)  # in three parts
SIZES = pytest.mark.parametrize("data", [SMALL, LARGE, b""], ids=["single put", "multipart", "empty"])
URI = "s3://bucket/out/a.png"
LIMITS = FetchLimits()

DENIED = Refusal(403, "AccessDenied", "Access Denied")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[OddStore]:
    """A store over TLS, with a certificate that this process and its workers trust."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority_file = str(tmp_path / "authority.pem")
    with own_odd_store(monkeypatch, tmp_path, tls=context, AWS_CA_BUNDLE=authority_file) as store:
        yield store
    _OTHER_ETAGS.clear()


def write(data: bytes, uri: str = URI) -> None:
    store_for(uri).write(uri, data, "image/png")


def stored(store: OddStore) -> bytes:
    return store.objects["/bucket/out/a.png"]


# -- checksums ------------------------------------------------------------------------------------------------------


@SIZES
def test_a_store_that_keeps_bodies_as_they_come_holds_what_was_sent(store: OddStore, data: bytes) -> None:
    write(data)
    assert stored(store) == data
    assert read_bytes(URI, LIMITS) == data


@SIZES
def test_a_store_that_refuses_unknown_headers_is_written_read_listed_and_emptied(store: OddStore, data: bytes) -> None:
    store.strict = True
    write(data)
    assert stored(store) == data
    assert read_bytes(URI, LIMITS) == data
    assert list(store_for(URI).names_below("s3://bucket/out")) == ["a.png"]
    assert store_for(URI).exists(URI)
    store_for(URI).delete(URI)
    assert store.objects == {}


def test_names_with_the_characters_of_xml_are_listed(store: OddStore) -> None:
    names = ["a&b/<1>.png", 'say "é".png']
    for name in names:
        store.objects[f"/bucket/out/{name}"] = SMALL
    assert list(store_for(URI).names_below("s3://bucket/out")) == names


@pytest.mark.parametrize(
    ("data", "variable"),
    [(SMALL, "environment"), (LARGE, "environment"), (SMALL, "file")],
    ids=["single put", "multipart", "config"],
)
def test_a_user_who_asks_for_the_sdks_checksums_gets_them(
    store: OddStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: bytes, variable: str
) -> None:
    """And an upload that an old store spoils then is an error that names the variable."""
    if variable == "environment":
        monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    else:
        (tmp_path / "config").write_text("[default]\nrequest_checksum_calculation = WHEN_SUPPORTED\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    s3.forget_client()
    with pytest.raises(
        OutputForbidden, match=r"spoilt in each of 3 uploads.*AWS_REQUEST_CHECKSUM_CALCULATION"
    ) as caught:
        write(data)
    assert (caught.value.fault, caught.value.scope, caught.value.unfit) == ("worker", "machine", False)
    assert store.objects == {}  # a spoilt object is deleted
    assert store.parts == {}


# -- what was stored ------------------------------------------------------------------------------------------------


def test_an_upload_whose_etag_is_its_md5_needs_no_other_request(store: OddStore) -> None:
    write(SMALL)
    assert store.methods() == ["PUT"]
    write(LARGE)
    assert store.methods() == ["PUT", "POST", "PUT", "PUT", "PUT", "POST"]


@pytest.mark.parametrize(
    ("data", "etag"),
    [(SMALL, md5), (SMALL, lambda _: None), (LARGE, lambda _: None)],
    ids=["single put", "no ETag", "multipart"],
)
def test_a_store_that_cuts_bodies_is_an_error_and_keeps_nothing(
    store: OddStore, data: bytes, etag: Callable[[bytes], str | None]
) -> None:
    store.etag, store.cut = etag, lambda body: body[:-1]
    with pytest.raises(
        OutputForbidden, match=r"a\.png was spoilt in each of 3 uploads: [\d,]+ bytes are stored instead of"
    ):
        write(data)
    assert store.objects == {}


def test_an_upload_that_was_cut_once_is_repeated(store: OddStore, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(SMALL)
    for send in (write, lambda data: store_for(URI).put_file(URI, tmp_path / "local", "image/png")):
        cuts = iter([1])
        store.cut = lambda body, cuts=cuts: body[next(cuts, 0) :]  # type: ignore[misc]
        digest = send(SMALL)
        assert stored(store) == SMALL
    assert digest == hashlib.sha256(SMALL).hexdigest()


def test_a_store_that_changes_bytes_is_found_by_its_etag(store: OddStore) -> None:
    store.cut = lambda body: b"x" + body[1:]
    with pytest.raises(OutputForbidden, match="the ETag of what is stored is not that of what was sent"):
        write(SMALL)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["single put", "multipart"])
def test_a_body_that_was_changed_on_the_way_is_refused_by_stores_that_compare_it(store: OddStore, data: bytes) -> None:
    store.checks_md5 = True
    write(data)
    store.refuse = lambda method, path, key: Refusal(400, "BadDigest") if method == "PUT" else None
    with pytest.raises(OutputForbidden, match=r"received other bytes than were sent \(BadDigest\)"):
        write(data)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["single put", "multipart"])
def test_stores_with_etags_of_their_own_are_written(store: OddStore, data: bytes) -> None:
    tags: list[Callable[[bytes], str | None]] = [
        lambda _: f'"{uuid.uuid4().hex}"',
        lambda _: f'"{uuid.uuid4().hex}-3"',
        lambda _: 'W/"1-2"',
        lambda data: hashlib.sha256(data).hexdigest(),
        lambda _: '"00000000000000000000000000000000-1"',
        lambda data: md5(data).upper(),
        lambda _: '""',
    ]
    for number, store.etag in enumerate(tags if data is SMALL else tags[:2]):
        store.requests.clear()
        for _ in range(2):
            write(data, f"s3://bucket-{number}/a.png")
        assert store.objects[f"/bucket-{number}/a.png"] == data
        assert store.methods().count("GET") <= 1  # read back once for a bucket, not for each object


def test_where_kms_encrypts_the_size_is_compared(store: OddStore) -> None:
    store.headers = {"x-amz-server-side-encryption": "aws:kms"}
    store.etag = lambda _: f'"{uuid.uuid4().hex}"'
    write(SMALL)
    assert store.methods() == ["PUT", "HEAD"]
    store.cut = lambda body: body[:-1]
    with pytest.raises(OutputForbidden, match="99,999 bytes are stored instead of 100,000"):
        write(SMALL)


def test_an_upload_counts_as_whole_where_the_keys_may_not_look(store: OddStore) -> None:
    store.etag = lambda _: None
    for status in (403, 404, 405, 501):
        refusal = Refusal(status)
        store.refuse = lambda method, path, key, refusal=refusal: refusal if method in ("HEAD", "GET") else None  # type: ignore[misc]
        write(SMALL)
        assert stored(store) == SMALL


def test_an_etag_that_differs_is_believed_where_the_keys_may_not_read_back(store: OddStore) -> None:
    store.refuse = lambda method, path, key: DENIED if method in ("HEAD", "GET") else None
    store.cut = lambda body: b"wrapped" + body
    with pytest.raises(OutputForbidden, match="the ETag of what is stored"):
        write(SMALL)


def test_a_spoilt_object_stays_where_the_keys_may_not_delete_and_the_error_is_the_same(store: OddStore) -> None:
    store.cut = lambda body: body[:-1]
    store.refuse = lambda method, path, key: DENIED if method == "DELETE" else None
    with pytest.raises(OutputForbidden, match="spoilt"):
        write(SMALL)


def test_a_store_that_is_away_after_an_upload_is_tried_again(store: OddStore) -> None:
    store.etag = lambda _: None
    store.refuse = lambda method, path, key: Refusal(503) if method == "HEAD" else None
    with pytest.raises(OutputUnavailable) as caught:
        write(SMALL)
    assert caught.value.fault == "store"


def test_a_worker_renders_to_a_store_of_before_the_sdks_checksums(site: Site, store: OddStore) -> None:
    store.etag = lambda _: None
    job = make_job(1, output="s3://bucket/out", image=site.picture.as_uri(), prompt="takes 0 s")
    enqueue(site.ledger, [job])
    site.start()
    site.wait_until_done(1)
    held = {path.removeprefix("/bucket/"): data for path, data in store.objects.items()}
    canny = held[job.canny_uri.removeprefix("s3://bucket/")]
    assert canny == b"canny of " + site.picture.read_bytes()
    assert RenderResult.model_validate_json(held[job.sidecar_uri.removeprefix("s3://bucket/")]).state == "done"


# -- rights -----------------------------------------------------------------------------------------------------------


def may_not_list(store: OddStore) -> Callable[[str, str, str], Refusal | None]:
    """As S3 for keys without s3:ListBucket: 403 for what is not there, without a body where HEAD asked."""

    def refuse(method: str, path: str, key: str) -> Refusal | None:
        if method not in ("GET", "HEAD") or path in store.objects:
            return None
        return Refusal(403) if method == "HEAD" else DENIED

    return refuse


def test_without_the_right_to_list_a_look_says_not_known_and_the_rest_works(store: OddStore) -> None:
    store.refuse = may_not_list(store)
    assert store_for(URI).exists(URI) is None
    write(SMALL)
    assert store_for(URI).exists(URI) is True
    assert read_bytes(URI, LIMITS) == SMALL
    for names in (store_for(URI).names, store_for(URI).names_below):
        with pytest.raises(OutputForbidden, match=r"may not be listed: AccessDenied; .* lack the right s3:ListBucket"):
            list(names("s3://bucket/out"))
    with pytest.raises(SourceForbidden, match=r"lack the right s3:GetObject, or it does not exist and they lack"):
        read_bytes("s3://bucket/missing", LIMITS)


def test_a_job_that_starts_a_second_time_is_rendered_where_the_keys_may_not_list(site: Site, store: OddStore) -> None:
    store.refuse = may_not_list(store)
    job = make_job(1, output="s3://bucket/out", image=site.picture.as_uri(), prompt=site.until_finished)
    enqueue(site.ledger, [job])
    first = site.start()
    eventually(lambda: site.ledger.counts("b").running == 1, what="the first start")
    first.kill()
    site.finish()
    site.start()

    def done() -> bool:
        reconcile(site.ledger, lease_seconds=1.0, settle_seconds=0.1)
        return site.ledger.counts("b").finished == 1

    eventually(done, seconds=60)
    (result,) = site.ledger.results("b")
    assert (result.state, result.attempts) == ("done", 2)
    assert "HEAD" in store.methods()  # the second worker looked for the first one's result


def test_with_the_right_to_list_a_look_says_what_is_there(store: OddStore) -> None:
    assert store_for(URI).exists(URI) is False
    write(b"")
    assert store_for(URI).exists(URI) is True
    store.refuse = lambda method, path, key: Refusal(403) if method == "HEAD" else None  # a proxy without HEAD
    assert store_for(URI).exists(URI) is True
    write(SMALL)
    assert store_for(URI).exists(URI) is True
    assert store_for(URI).exists("s3://bucket/missing") is False


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (403, "InvalidAccessKeyId", "AWS keys"),
        (400, "ExpiredToken", "AWS keys"),
        (403, "RequestTimeTooSkewed", "clock"),
    ],
)
def test_a_look_with_keys_that_nobody_accepts_is_not_taken_for_a_missing_right(
    store: OddStore, status: int, code: str, sentence: str
) -> None:
    store.refuse = lambda method, path, key: Refusal(status) if method == "HEAD" else Refusal(status, code)
    with pytest.raises(OutputForbidden, match=sentence) as caught:
        store_for(URI).exists(URI)
    assert (caught.value.fault, caught.value.unfit) == ("worker", True)


def test_a_missing_right_is_named(store: OddStore) -> None:
    message = "User: arn:aws:iam::1:user/x is not authorized to perform: kms:GenerateDataKey on resource: ..."
    store.refuse = lambda method, path, key: Refusal(403, "AccessDenied", message) if method == "PUT" else DENIED
    with pytest.raises(OutputForbidden, match=r"may not be written: AccessDenied; .* the right kms:GenerateDataKey$"):
        write(SMALL)
    with pytest.raises(OutputForbidden, match=r"may not be deleted: AccessDenied; .* the right s3:DeleteObject$"):
        store_for(URI).delete(URI)


# -- keys and settings ----------------------------------------------------------------------------------------------


@pytest.fixture
def keep_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Writes the credentials file, the only place that keys come from."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))

    def keep(key: str) -> None:
        new = tmp_path / "credentials.new"
        new.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret\n")
        new.replace(tmp_path / "credentials")

    return keep


def accept_only(store: OddStore, accepted: str) -> None:
    """As S3 does: the reply to a HEAD has no body, so it does not say what is wrong."""

    def refuse(method: str, path: str, key: str) -> Refusal | None:
        if key == accepted:
            return None
        return Refusal(400) if method == "HEAD" else Refusal(400, "ExpiredToken")

    store.refuse = refuse


def test_renewed_keys_in_the_credentials_file_are_used_without_a_restart(
    store: OddStore, monkeypatch: pytest.MonkeyPatch, keep_key: Callable[[str], None]
) -> None:
    monkeypatch.setattr(s3_client, "RENEW_SECONDS", 0.0)
    accept_only(store, "new")
    keep_key("old")
    for _ in range(2):
        with pytest.raises(OutputForbidden, match=r"wrong or expired \(ExpiredToken\)") as caught:
            write(SMALL)
        assert caught.value.unfit
    keep_key("new")
    write(SMALL)
    assert read_bytes(URI, LIMITS) == SMALL
    assert set(store.credentials) == {"old", "new"}


CALLS: dict[str, Callable[[Path], object]] = {
    "write": lambda _: write(SMALL),
    "write in parts": lambda _: write(LARGE),
    "put a file": lambda path: store_for(URI).put_file(URI, path, "image/png"),
    "get a file": lambda path: store_for(URI).get_file(URI, path),
    "read": lambda _: read_bytes(URI, LIMITS),
    "exists": lambda _: store_for(URI).exists(URI),
    "names": lambda _: list(store_for(URI).names("s3://bucket/out")),
    "names below": lambda _: list(store_for(URI).names_below("s3://bucket/out")),
    "delete": lambda _: store_for(URI).delete(URI),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_each_call_that_meets_keys_that_were_changed_is_repeated_with_the_new_ones(
    store: OddStore, tmp_path: Path, keep_key: Callable[[str], None], call: Callable[[Path], object]
) -> None:
    """Twice, one right after the other: nothing has to wait until the client is some seconds old."""
    path = tmp_path / "picture"
    path.write_bytes(SMALL)
    keep_key("first")
    write(SMALL)
    expected = call(path)
    for key in ("second", "third"):
        store.objects["/bucket/out/a.png"] = SMALL
        keep_key(key)
        accept_only(store, key)
        assert call(path) == expected
        assert store.credentials[-1] == key


def test_keys_that_change_between_two_parts_or_two_pages_spoil_neither(
    store: OddStore, keep_key: Callable[[str], None]
) -> None:
    def change_at(method: str, times: int) -> None:
        """At so many requests with this method: the old keys expire, and the file has new ones."""
        seen = list[str]()

        def refuse(asked: str, path: str, key: str) -> Refusal | None:
            seen.extend([asked] if asked == method and key == "old" else [])
            if key != "old" or len(seen) < times:
                return None
            keep_key("new")
            return Refusal(400, "ExpiredToken")

        store.refuse = refuse

    keep_key("old")
    change_at("PUT", 2)
    write(LARGE)
    assert (stored(store), store.parts) == (LARGE, {})  # the first upload's parts are removed with the new keys
    for name in "bcde":
        write(b"", f"s3://bucket/out/{name}.png")
    keep_key("old")
    s3.forget_client()
    store.page = 2
    change_at("GET", 2)
    names = [f"{name}.png" for name in "abcde"]
    assert list(store_for(URI).names("s3://bucket/out")) == names
    assert list(store_for(URI).names_below("s3://bucket/out")) == names


def test_all_threads_that_meet_the_old_keys_together_repeat_with_one_new_client(
    store: OddStore, monkeypatch: pytest.MonkeyPatch, keep_key: Callable[[str], None]
) -> None:
    threads = 8
    made = list[object]()
    session = boto3.session.Session

    def counted(**options: Any) -> Any:
        made.append(options)
        return session(**options)

    monkeypatch.setattr(boto3.session, "Session", counted)
    together = threading.Barrier(threads)

    def refuse(method: str, path: str, key: str) -> Refusal | None:
        if key != "old":
            return None
        if together.wait(60) == 0:  # all are refused at the same moment
            keep_key("new")
        together.wait(60)
        return Refusal(403, "InvalidAccessKeyId")

    keep_key("old")
    store.refuse = refuse
    uris = [f"s3://bucket/out/{number}.png" for number in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda uri: write(SMALL, uri), uris))
    assert sorted(store.credentials) == ["new"] * threads + ["old"] * threads
    assert len(made) == 2


def test_keys_that_stay_wrong_are_not_read_again_for_each_call(
    store: OddStore, keep_key: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "RENEW_SECONDS", 3600.0)
    keep_key("wrong")
    accept_only(store, "right")
    for _ in range(5):
        with pytest.raises(OutputForbidden, match="ExpiredToken"):
            write(SMALL)
    assert len(store.requests) == 6  # the first was repeated


def test_keys_that_appear_later_are_used(store: OddStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setattr(s3_client, "RENEW_SECONDS", 0.0)
    with pytest.raises(OutputForbidden, match="NoCredentialsError"):
        write(SMALL)
    (tmp_path / "credentials").write_text("[default]\naws_access_key_id = new\naws_secret_access_key = secret\n")
    write(SMALL)


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"AWS_PROFILE": "nobody"}, r"boto3 refuses the AWS settings.*\(nobody\) could not be found"),
        ({"AWS_ENDPOINT_URL_S3": "127.0.0.1:9000"}, "AWS settings.*Invalid endpoint: 127.0.0.1:9000"),
        ({"AWS_ENDPOINT_URL_S3": "http://user:planted@"}, r"Invalid endpoint: http://\*\*\*@"),
        ({"AWS_ENDPOINT_URL_S3": "ftp://127.0.0.1"}, "AWS settings.*ftp://127.0.0.1` was not a valid URI"),
        ({"AWS_DEFAULT_REGION": "us east 1"}, "AWS settings.*us east 1"),
        ({"AWS_REQUEST_CHECKSUM_CALCULATION": "maybe"}, "AWS settings.*maybe"),
        ({"AWS_ACCESS_KEY_ID": "two\nlines"}, "AWS keys.*HTTPClientError"),
        ({"AWS_SECRET_ACCESS_KEY": ""}, "AWS keys.*PartialCredentialsError"),
        ({"AWS_CA_BUNDLE": "/etc/hostname"}, "certificate is not valid here"),
        ({"AWS_CA_BUNDLE": "/nowhere.pem"}, "certificate is not valid here"),
        ({"AWS_CA_BUNDLE": None}, "certificate is not valid here"),  # the authority of the store is then a stranger
    ],
)  # fmt: skip
def test_settings_that_give_no_client_are_the_workers_fault(
    store: OddStore, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str | None], sentence: str
) -> None:
    for name, value in variables.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    s3.forget_client()
    with pytest.raises(OutputForbidden, match=sentence) as output:
        write(SMALL)
    with pytest.raises(SourceForbidden, match=sentence) as source:
        read_bytes(URI, LIMITS)
    for error in (output.value, source.value):
        assert (error.fault, error.scope, error.unfit) == ("worker", "machine", True)
        assert "planted" not in str(error)
        assert "two" not in str(error)


@pytest.mark.parametrize(
    ("files", "variables"),
    [
        ({}, {"AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere", "AWS_ROLE_ARN": "arn:aws:iam::1:role/x"}),
        ({"config": "[default]\ncredential_process = /nowhere/program\n"}, {}),
        ({"config": "[default]\ncredential_process = false\n"}, {}),
        ({"config": "[default]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = none\n"}, {}),
        ({"config": "[default\n"}, {}),
    ],
    ids=["token file", "no program", "program fails", "no profile", "config file"],
)
def test_ways_to_keys_that_fail_are_the_workers_fault(
    store: OddStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], variables: dict[str, str]
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    s3.forget_client()
    with pytest.raises(OutputForbidden) as caught:
        write(SMALL)
    assert caught.value.unfit


def test_a_role_that_may_not_be_assumed_is_no_fault_of_the_job(
    store: OddStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The answer to AssumeRole is AccessDenied, as that to a read would be."""
    keys = "aws_access_key_id = id\naws_secret_access_key = secret\n"
    role = "role_arn = arn:aws:iam::1:role/x\nsource_profile = base\n"
    (tmp_path / "config").write_text(f"[profile base]\n{keys}[profile x]\n{role}")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "x")
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", store.url)
    s3.forget_client()
    store.refuse = lambda method, path, key: DENIED if method == "POST" else None
    with pytest.raises(SourceForbidden, match="AWS keys") as caught:
        read_bytes(URI, LIMITS)
    assert (caught.value.fault, caught.value.unfit) == ("worker", True)


@pytest.mark.parametrize(
    "look", [Refusal(301), Refusal(403), Refusal(200, headers={"x-amz-bucket-region": "eu-west-1"})],
    ids=["moved", "forbidden", "told"],
)  # fmt: skip
def test_a_bucket_in_another_region_is_the_workers_fault(store: OddStore, look: Refusal) -> None:
    """boto3 asks by HEAD where the bucket is."""
    store.refuse = lambda method, path, key: look if method == "HEAD" else Refusal(301, "PermanentRedirect")
    with pytest.raises(OutputForbidden, match=r"another region or at another address .*AWS_DEFAULT_REGION") as output:
        write(SMALL)
    with pytest.raises(SourceForbidden, match="another region") as source:
        read_bytes(URI, LIMITS)
    assert [(error.fault, error.unfit) for error in (output.value, source.value)] == [("worker", False)] * 2


def test_a_store_that_says_how_long_to_wait_is_heard(store: OddStore) -> None:
    store.refuse = lambda method, path, key: Refusal(503, "SlowDown", headers={"Retry-After": "7"})
    with pytest.raises(OutputUnavailable, match="SlowDown") as caught:
        write(SMALL)
    assert (caught.value.fault, caught.value.retry_after_seconds) == ("store", 7.0)


def test_what_is_not_there_is_the_jobs_fault(store: OddStore) -> None:
    with pytest.raises(SourceNotFound) as caught:
        read_bytes(URI, LIMITS)
    assert caught.value.fault == "job"
