"""Secrets of URIs and of texts are replaced; everything else stays as it was written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.redaction import redacted, without_secrets

WITHOUT_SECRETS = [
    "s3://inputs/photo #1.png",
    "s3://inputs/what?.png",
    "s3://inputs/what?a=b3c9d2e8f1&c#d.png",
    "s3://inputs/100% %20.png",
    "S3://Inputs/A B.png",
    "http://Localhost:7480/ok",
    "http://127.0.0.1:7480/ok#frag",
    "http://[::1]:7480/ok",
    "http://[FE80::1%25eth0]/ok",
    "HTTP://127.0.0.1:7480/OK",
    "https://example.org/A%20b.PNG;v=1",
    "https://example.org/@user/photo@2x.png",
    "https://example.org:/a.png?",
    "https://example.org/a.png?w=512&h=512&fit=crop&auto=format,compress&q=80&dpr=1.5",
    "https://example.org/a.png?rect=0,0,512x512&ar=16:9&bg=00ff00#xywh=160,120,320,240",
    "https://example.org/get?file=DSC01234.JPG&v=3f2a9c1&id=64b7f2e9a1c3d4e5f6a7b8c9;raw",
    "https://b.s3.amazonaws.com/a.png?versionId=3HL4kqtJlcpXroDTDmJ_rmSpXd3dIbrHY",
    "https://example.org/?name=%E7%8C%AB.png&text=Hello%20World!",
    "https://alice@example.org/a.png",
    "file:///data/a.png?token=1",
    "a photo of https and a cat",
]
SECRETS = [
    ("https://me:hunter2@h/a.png?w=1", "https://…@h/a.png?w=1"),
    ("https://:hunter2@h/", "https://…@h/"),
    ("https://ghp_hunter2A@h/a.png", "https://…@h/a.png"),
    ("http://u:hun/ter2@h:8080/a#b", "http://…@h:8080/a#b"),
    ("http://u:hun?hunter2#@h/a", "http://…@h/a"),
    ("http://user:hunter2", "http://user:…"),
    ("s3://key:hunter2@bucket/a?b#c", "s3://…@bucket/a?b#c"),
    ("s3://bucket/a.png?X-Amz-Signature=hunter2&x=1", "s3://bucket/a.png?X-Amz-Signature=…&x=1"),
    ("https://h/a?X-Amz-Expires=60&X-Amz-Signature=hunter2", "https://h/a?X-Amz-Expires=60&X-Amz-Signature=…"),
    ("https://h/a?x-goog-signature=hunter", "https://h/a?x-goog-signature=…"),
    ("https://h/a?AWSAccessKeyId=hunter&Signature=hunter%3D", "https://h/a?AWSAccessKeyId=…&Signature=…"),
    ("https://h/a?sv=2020-08-04&sig=hunter%2B2", "https://h/a?sv=2020-08-04&sig=…"),
    ("https://h/a?Policy=hunter&Key-Pair-Id=hunter", "https://h/a?Policy=…&Key-Pair-Id=…"),
    ("https://h/a?key=hunter&w=1;api_key=hunter", "https://h/a?key=…&w=1;api_key=…"),
    ("https://h/a?accessToken=hunter&auth=hunter&pass=1", "https://h/a?accessToken=…&auth=…&pass=…"),
    ("https://h/a?t=eyJhbGciOi.hunter2", "https://h/a?t=…"),
    ("https://h/a?x=0123456789abcdef0123456789abcdef", "https://h/a?x=…"),
    ("https://h/a?x=aGVsbG8gaHVudGVy", "https://h/a?x=…"),
    ("https://h/a?x=AB12-CD34-EF56-GH78", "https://h/a?x=…"),
    ("https://h/a?url=http%3A%2F%2Fu%3Ahunter2%40h%2F", "https://h/a?url=…"),
    ("https://h/a?hunter2", "https://h/a?…"),
    ("https://h/a?aHVudGVyMg==", "https://h/a?…"),
    ("https://h/a#access_token=hunter&x=1", "https://h/a#access_token=…&x=1"),
    ("https://h/a#hunter2", "https://h/a#…"),
]


@pytest.mark.parametrize("uri", WITHOUT_SECRETS)
def test_a_uri_without_a_secret_stays_as_it_is(uri: str) -> None:
    assert redacted(uri) == uri


@pytest.mark.parametrize(("uri", "shown"), SECRETS)
def test_a_secret_is_left_out_and_nothing_else(uri: str, shown: str) -> None:
    assert redacted(uri) == shown
    assert redacted(shown) == shown


@given(st.text(max_size=40) | st.text("ab1:/?#[]@&=;%…. \n", max_size=40).map("http://{}".format))
def test_any_text_is_redacted_once_and_for_all(text: str) -> None:
    assert redacted(redacted(text)) == redacted(text)


PLAIN_TEXTS = [
    "/etc/passwd: Permission denied",
    "'/etc/passwd': not a regular file",
    "/etc/passwd may not be read by workers; if that is meant, add its folder to RENDER_ALLOW_FOLDERS",
    "[Errno 13] Permission denied: '/etc/passwd'",
    "/run/secrets/token: No such file or directory",
    "file:///srv/my-secret: gone",
    "s3://inputs/photo?x=a3f9c2d1.png cannot be read: no such key",
    "s3://b/password: NoSuchKey",
    "an email a@b.c",
    "a photo of a cat: two eyes, one nose",
    "tokens: 77, cut at 77 tokens",
    "the prompt is cut at 77 tokens",
    "design=3 signals=4",
    "no password: Redis refuses the connection",
    "InvalidToken: The provided token is malformed or otherwise invalid",
    "SignatureDoesNotMatch: check RENDER and AWS settings",
    "AWS_SECRET_ACCESS_KEY: not set",
    "Bad credentials: check AWS_ACCESS_KEY_ID",
    "needs authorization: ask the owner of the bucket",
    "basic understanding of it",
    "password=None token='' secret=null",
    "https://example.org/a.png?w=512, and (https://example.org/b.png?h=1).",
    "http://h/a?…: only",
    "Key='a/b.png' Bucket='b'",
    "'Content-Type': 'image/png'",
]
TEXTS = [
    "redis://user:hunter2@redis:6379/0 refused",
    "redis://:hun/hunter2@redis:6379/0 refused",
    "http://u:hun\\hunter2@h/x",
    "'https://u:hunter2@h/a.png'",
    "https://h/a?any=hunter2.",
    "(https://h/a#hunter2)",
    'GET https://h "GET /a?any=hunter2 HTTP/1.1" 200',
    "Location: /gone.png?Signature=hunter2-redirect&Key-Pair-Id=hunter2",
    "password: hunter2",
    "password: swordhunter2",
    "password = hunter2, port = 1",
    "PASSWORD=hunter2",
    "my.app.password=hunter2",
    "user=x\\npassword=hunter2\\n",
    "{'password': 'hun\\'hunter2', 'port': 1}",
    '{"clientSecret": "hunter2"}',
    '{\\"token\\": \\"hunter2\\", \\"x\\": 1}',
    "{'X-Amz-Security-Token': b'hunter2'}",
    "X-Api-Key: hunter2 and more",
    "--password hunter2 --x 1",
    "--api-key=hunter2",
    "Authorization: Bearer hunter2",
    "authorization: hunter2",
    "Authorization: Digest username='a', response=\"hunter2\"",
    "{'Proxy-Authorization': 'Basic hunter2=='}",
    "sent Bearer hunter2hunter2",
    "Set-Cookie: sid=hunter2; Path=/",
    "eyJhbGciOiJIUzI1NiJ9.hunter2.hunter2",
]


@pytest.mark.parametrize("text", PLAIN_TEXTS)
def test_ordinary_sentences_and_paths_are_not_cut(text: str) -> None:
    assert without_secrets(text) == text


@pytest.mark.parametrize("text", TEXTS)
def test_secrets_in_texts_do_not_survive(text: str) -> None:
    clean = without_secrets(text)
    assert "hunter2" not in clean
    assert "***" in clean
    assert without_secrets(clean) == clean


@given(st.text("ab2:/?#@&=;'\"\\{} \n*…", max_size=60).map("password={}".format) | st.text(max_size=80))
def test_any_text_is_cleaned_without_an_error(text: str) -> None:
    assert isinstance(without_secrets(text), str)


@pytest.mark.parametrize(
    "piece",
    [
        *("a", "a.", "://", "://\\", "password", "password:", "'", "cookie:", "authorization", "a://", "--token "),
        *(
            "x?",
            "eyJaaaaaaaa-",
            'authorization:aws4-"',
            "/token:",
            "/token=\\'",
            "cookie:a",
            "%20",
            "sig",
            "x_password",
            "-",
        ),
    ],
)
def test_a_huge_text_is_cleaned_in_linear_steps(piece: str) -> None:
    """In quadratic ones, this would take hours."""
    assert without_secrets(piece * (300_000 // len(piece)))
