"""URIs: what people write in a cell, and what may be shown of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.errors import InvalidJob
from jobs.job import RenderParameters, job_id
from jobs.uri import bucket_and_key, path_of, redacted, resolve_image, resolve_uri


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat.png", "file:///data/cat.png"),
        ("a b/ü.png", "file:///data/a%20b/%C3%BC.png"),
        ("/abs/cat.png", "file:///abs/cat.png"),
        ("file:///abs/cat.png", "file:///abs/cat.png"),
        ("file://cat.png", "file:///data/cat.png"),
        ("s3://bucket/key.png", "s3://bucket/key.png"),
        ("https://example.org/a.png?x=1", "https://example.org/a.png?x=1"),
        ("HTTPS://Example.ORG/A.png?X=1#Y", "https://Example.ORG/A.png?X=1#Y"),
        ("S3://Bucket/A #1?.png", "s3://Bucket/A #1?.png"),
        ("FILE:///abs/Cat.png", "file:///abs/Cat.png"),
        ("file://LocalHost/abs/cat.png", "file:///abs/cat.png"),
        ("http://[::1]:8080/a.png", "http://[::1]:8080/a.png"),
        ("http://user:password@h:/a.png", "http://user:password@h:/a.png"),
        (
            "s3://arn:aws:s3:us-east-1:123456789012:accesspoint:a/k",
            "s3://arn:aws:s3:us-east-1:123456789012:accesspoint:a/k",
        ),
        ("scan:2.png", "file:///data/scan%3A2.png"),
        ("./~cat.png", "file:///data/~cat.png"),
        ("file:///a%FFb.png", "file:///a%FFb.png"),
    ],
)
def test_a_cell_becomes_an_absolute_uri(text: str, expected: str) -> None:
    assert resolve_uri(text, Path("/data")) == expected


def test_a_path_survives_the_round_trip() -> None:
    assert path_of(resolve_uri("50% off #1?.png", Path("/data"))) == Path("/data/50% off #1?.png")


def test_a_path_whose_bytes_are_not_utf_8_survives_the_round_trip() -> None:
    path = Path(os.fsdecode(b"/data/caf\xe9 \xff.png"))
    uri = resolve_uri(str(path), Path("/"))
    assert (uri, path_of(uri)) == ("file:///data/caf%E9%20%FF.png", path)


def test_a_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert resolve_uri("~/a b.png", Path("/data")) == "file:///home/me/a%20b.png"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ftp://host/a.png", "has the scheme 'ftp'; use a path, file://, s3://"),
        ("s3:///key", "names no bucket; write s3://bucket/key"),
        ("s3://", "names no bucket"),
        ("s3://key:hunter2@bucket/a", "has a user before the bucket; give keys in the AWS_* variables instead"),
        ("s3://bu cket/a", "'bu cket' is not a bucket name"),
        ("s3://bucket?a", "'bucket?a' is not a bucket name"),
        ("http:///a.png", "names no host"),
        ("http://", "names no host"),
        ("https://user@/a.png", "names no host"),
        (
            "http://h:99999/a.png",
            "'http://h:99999/a.png' has no usable port behind its host: a port is a number from 1",
        ),
        ("http://h:0/a.png", "has no usable port"),
        ("http://h:hunter2/a.png", "'http://h:…/a.png' has no usable port"),
        ("http://u:hun/ter2@h:hunter2/", "has no usable port"),
        ("http://[", "cannot be read as a URL; check its host and brackets"),
        ("http://a..b/x.png", "'a..b' is not a host name"),
        (f"http://{'a' * 64}.org/x.png", "is not a host name"),
        ("http://exa mple/x.png", "'exa mple' is not a host name: it has a space"),
        ("http://h/a\nb.png", "holds a line break or another control character"),
        ("data:image/png;base64,iVBORw0KGgo=", "is a data: URI, which workers do not read; save the picture as a file"),
        ("blob:https://h/1234", "is a blob: URI"),
        ("mailto:me@example.org", "is a mailto: URI, which workers do not read; use a path"),
        ("file:/x.png", "a URI lacks slashes behind file:; write 'file:///x.png'"),
        ("s3:/b/x.png", "a URI lacks slashes behind s3:; write 's3://b/x.png'"),
        ("s3:/x", "a URI lacks slashes behind s3:; write s3://bucket/key"),
        ("http:", "a URI lacks slashes behind http:; write http://host/name"),
        ("about:blank", "'about:blank' is an about: URI"),
        ("HTTP:/u:hunter2@h/x.png", "write 'http://…@h/x.png'"),
        ("https:h/x.png", "write 'https://h/x.png'"),
        ("//u:hunter2@h/x.png", "a URI lacks its scheme before '//'; write 'https://…@h/x.png', or one '/' for a path"),
        ("C:\\x.png", "is a path of Windows, which workers cannot read; copy the files to a folder that they share"),
        ("d:/x.png", "is a path of Windows"),
        ("\\\\server\\x.png", "is a path of Windows"),
        ("file:///C:/x.png", "is a path of Windows"),
        ("~nobody-of-that-name/x.png", "names a home folder that does not exist"),
        ("file://", "names no file"),
        ("file:///a%00b.png", "holds a NUL byte"),
        ("a\0b.png", "holds a NUL byte"),
        ("\ud800.png", "holds half a character"),
        (
            "a photo of " + "a cat " * 60,
            "is not a path: a name has at most 255 bytes, and this one has 371; is the text in",
        ),
        ("é" * 128, "is not a path: a name has at most 255 bytes, and this one has 256"),
        ("ab/" * 1400, "is too long a path: it has more than 4,095 bytes"),
        ("", "the text is empty"),
        (" \t", "the text is empty"),
    ],
)
def test_an_unusable_uri_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidJob) as refusal:
        resolve_uri(text, Path("/data"))
    assert said in str(refusal.value)
    assert "hunter2" not in str(refusal.value)
    assert len(str(refusal.value)) < 260


@pytest.mark.parametrize("text", ["s3://bucket", "s3://bucket/", "S3://bucket//"])
def test_a_bucket_is_enough_for_results_but_not_for_a_picture(text: str) -> None:
    assert bucket_and_key(resolve_uri(text, Path("/data"))) == ("bucket", "")
    with pytest.raises(InvalidJob, match="names a bucket and no key; write s3://bucket/key"):
        resolve_image(text, Path("/data"))


def test_ids_of_rows_that_could_be_rendered_before_are_the_same() -> None:
    """Another id would be another picture: what is done would be rendered again."""
    images = ["a b/ü.png", "s3://inputs/photo #1.png", "http://Localhost:7480/ok?x#frag", "http://[::1]:7480/ok"]
    rows = [RenderParameters(image=resolve_image(image, Path("/data")), prompt="x") for image in images]
    assert [job_id(row, batch="b", row=1) for row in rows] == [
        "0b8e25bf26743591ece4",
        "54a389469a69094fa323",
        "3490e7838c19eb225b60",
        "11365ab39ce1c3f81917",
    ]


def test_passwords_and_signatures_are_not_shown() -> None:
    shown = redacted("https://user:secret@example.org:8080/a.png?X-Amz-Signature=secret")
    assert shown == "https://…@example.org:8080/a.png?X-Amz-Signature=…"
