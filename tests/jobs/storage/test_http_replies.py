"""Replies: compression that nobody asked for, what statuses mean, and what hosts say about them."""

from __future__ import annotations

import gzip
import zlib
from http.server import BaseHTTPRequestHandler

import pytest

from jobs.errors import (
    NotAnImage,
    RenderError,
    SourceForbidden,
    SourceNotFound,
    SourceTooLarge,
    SourceUnavailable,
)
from jobs.storage.content_encoding import unpacker_for
from jobs.storage.http import FetchLimits, HttpStore
from jobs.storage.http_reply import without_secrets
from tests.jobs.web_server import reply, serving

LIMITS = FetchLimits(timeout_seconds=5, max_bytes=1000, allow_hosts=("127.0.0.1",))
TEXT = {"Content-Type": "text/plain"}


def fetch(body: bytes, encoding: str) -> bytes:
    with serving({}, otherwise=reply(200, body, headers={"Content-Encoding": encoding})) as url:
        return HttpStore(LIMITS).read(url)


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PICTURE = bytes(range(256)) * 3

PACKED = {
    "gzip": ("gzip", gzip.compress(PICTURE)),
    "x-gzip, in any case": ("X-GZip", gzip.compress(PICTURE)),
    "gzip of two members": ("gzip", gzip.compress(PICTURE[:100]) + gzip.compress(PICTURE[100:])),
    "gzip with padding": ("gzip", gzip.compress(PICTURE) + b"\0" * 100),
    "deflate": ("deflate", zlib.compress(PICTURE)),
    "deflate without its header": ("deflate", raw_deflate(PICTURE)),
    "identity": ("identity", PICTURE),
    "what is no compression": ("aws-chunked,utf-8", PICTURE),
    "one compression among such words": ("aws-chunked, gzip", gzip.compress(PICTURE)),
}


@pytest.mark.parametrize(("encoding", "body"), PACKED.values(), ids=PACKED.keys())
def test_a_compressed_reply_is_unpacked(encoding: str, body: bytes) -> None:
    assert fetch(body, encoding) == PICTURE


@pytest.mark.parametrize(("encoding", "body"), PACKED.values(), ids=PACKED.keys())
def test_it_is_unpacked_however_its_bytes_arrive(encoding: str, body: bytes) -> None:
    unpacker = unpacker_for(encoding, "a URL")
    assert b"".join(unpacker.feed(bytes([byte]), 1000) for byte in body) == PICTURE
    unpacker.finish()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_ends_at_the_cap_and_not_in_memory(encoding: str) -> None:
    zeros = b"\0" * 10_000_000
    packed = gzip.compress(zeros) if encoding == "gzip" else zlib.compress(zeros)
    unpacker = unpacker_for(encoding, "a URL")
    assert len(unpacker.feed(packed, 1000)) == 1001
    with pytest.raises(SourceTooLarge, match="RENDER_FETCH_MAX_BYTES"):
        fetch(packed[:900], encoding)


def test_a_small_bomb_of_many_members_ends_at_the_cap() -> None:
    with pytest.raises(SourceTooLarge):
        fetch(gzip.compress(b"x" * 300) * 5, "gzip")


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip", "br, gzip", "gzip,br" + ",br" * 100])
def test_another_compression_is_a_sentence(encoding: str) -> None:
    with pytest.raises(NotAnImage, match="only gzip and deflate are unpacked"):
        fetch(b"\x1b\x03", encoding)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_what_is_not_compressed_as_it_says_is_a_sentence(encoding: str) -> None:
    with pytest.raises(NotAnImage, match=f"sent as {encoding}, and cannot be unpacked"):
        fetch(b"\x89PNG\r\n\x1a\n" + PICTURE, encoding)


@pytest.mark.parametrize("cut", [1, 15, 60])
def test_a_compressed_reply_that_breaks_off_is_worth_another_try(cut: int) -> None:
    with pytest.raises(SourceUnavailable, match="broke off"):
        fetch(gzip.compress(PICTURE)[:cut], "gzip")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, NotAnImage),
        (402, SourceForbidden),
        (404, SourceNotFound),
        (405, SourceForbidden),
        (406, NotAnImage),
        (408, SourceUnavailable),
        (410, SourceNotFound),
        (414, NotAnImage),
        (416, NotAnImage),
        (421, SourceUnavailable),
        (423, SourceUnavailable),
        (425, SourceUnavailable),
        (451, SourceForbidden),
        (500, SourceUnavailable),
        (502, SourceUnavailable),
        (504, SourceUnavailable),
        (599, SourceUnavailable),
        (204, NotAnImage),
        (206, NotAnImage),
        (304, NotAnImage),
        (302, NotAnImage),  # without a Location
    ],
)
def test_a_status_says_whose_fault_it_is(status: int, error: type[RenderError]) -> None:
    with serving({}, otherwise=reply(status)) as url, pytest.raises(error, match=f"HTTP status {status}") as caught:
        HttpStore(LIMITS).read(url)
    assert type(caught.value) is error
    assert caught.value.fault == ("host" if error is SourceUnavailable else "job")


def sentence(body: bytes, *, query: str = "", status: int = 403, **headers: str) -> str:
    """The error for a reply with this body."""
    headers = {"Content-Type": "text/plain"} | {name.replace("_", "-"): value for name, value in headers.items()}
    with serving({}, otherwise=reply(status, body, headers=headers)) as url:
        with pytest.raises(RenderError) as caught:
            HttpStore(LIMITS).read(f"{url.replace('://', '://who:passw0rd@')}/a.png{query}")
    return str(caught.value)


S3 = b"""<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>AccessDenied</Code><Message>Request has expired</Message><Expires>2026-01-01</Expires></Error>"""


@pytest.mark.parametrize(
    ("body", "content_type", "shown"),
    [
        (b"no such bucket", "text/plain", "no such bucket"),
        (S3, "application/xml", "AccessDenied Request has expired 2026-01-01"),
        (b'{"error": "quota"}', "application/problem+json; charset=utf-8", '{"error": "quota"}'),
        (
            b"<html><head><title>Gone &amp; lost</title><style>p{x:1}</style><script>a('<b>')</script></head>"
            b"<!-- <p>hidden --><p>It is\r\n\tover",
            "text/html",
            "Gone & lost It is over",
        ),
        ("größer".encode("latin-1"), "text/plain; charset=iso-8859-1", "größer"),
        ("größer".encode(), "text/plain; charset=no-such-thing", "größer"),
        (b"a\x00b\x1b[31mc\xe2\x80\xaed", "text/plain", "a b [31mc d"),
    ],
)
def test_what_a_host_says_stands_in_the_sentence(body: bytes, content_type: str, shown: str) -> None:
    assert sentence(body, Content_Type=content_type).endswith(f"(Forbidden): {shown}")


def test_a_compressed_explanation_is_read_too() -> None:
    assert sentence(gzip.compress(b"slow down"), Content_Encoding="gzip").endswith(": slow down")


@pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream", ""])
def test_what_is_no_text_is_not_shown(content_type: str) -> None:
    assert sentence(b"something", Content_Type=content_type).endswith("(Forbidden)")


def test_only_the_beginning_is_shown() -> None:
    said = sentence(b"word " * 100_000).partition("(Forbidden): ")[2]
    assert (len(said), said[-1]) == (200, "…")


SIGNED = "?X-Amz-Credential=AKIAABCDEFGHIJKLMNOP%2F2026&X-Amz-Signature=ab%2Fcdef0123&width=64"


@pytest.mark.parametrize(
    "body",
    [
        "the request /a.png" + SIGNED,
        "http://who:passw0rd@127.0.0.1/a.png" + SIGNED,
        "X-Amz-Signature: ab/cdef0123",
        "ab%2Fcdef0123 and passw0rd",
        "Basic d2hvOnBhc3N3MHJk",
        "<StringToSign>AKIAABCDEFGHIJKLMNOP/2026</StringToSign>",
        "AKIAZZZZZZZZZZZZZZZZ",
        'token="abcdef", password: abcdef',
        "elsewhere: https://u:abcdef@h.test/x?sig=abcdef",
        "0123456789abcdef0123456789abcdef",
        " " * 4085 + "X ab%2Fcdef0123",  # cut in its middle
    ],
)
def test_secrets_that_a_host_repeats_are_not_shown(body: str) -> None:
    said = sentence(body.encode(), query=SIGNED, Content_Type="text/html").partition("(Forbidden)")[2]
    for secret in ("AKIA", "ab%2F", "ab/cd", "cdef", "passw0rd", "d2ho", "0123456789"):
        assert secret not in said


def test_secrets_of_an_earlier_redirect_are_not_shown_either() -> None:
    def tell(handler: BaseHTTPRequestHandler) -> None:
        reply(403, b"you come from sesame-open", headers=TEXT)(handler)

    away = reply(302, headers={"Location": "/b"})
    with serving({"/b": tell}, otherwise=away) as url, pytest.raises(SourceForbidden) as caught:
        HttpStore(LIMITS).read(f"{url}/a?key=sesame-open")
    assert str(caught.value).endswith(": you come from …")


def test_an_explanation_that_does_not_end_does_not_hold_up_the_error() -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(404)
        handler.send_header("Content-Type", "text/plain")
        handler.end_headers()
        while True:
            handler.wfile.write(b"gone " * 1000)

    with serving({}, otherwise=endless) as url, pytest.raises(SourceNotFound, match="gone gone"):
        HttpStore(LIMITS).read(url)


@pytest.mark.parametrize(
    "piece", ["a", "-", "a-", "password", "sig", "token", "x_password", "%20", "://", "eyJaaaaaaaa-"]
)
def test_a_body_of_one_long_word_is_cleaned_in_linear_steps(piece: str) -> None:
    """In cubic ones, the first would take an hour, and every other thread would wait: `re` does not let them run."""
    said = sentence((piece * 4096)[:4096].encode()).partition("(Forbidden)")[2]
    assert len(said) <= 202
    long = piece * (1_000_000 // len(piece))
    assert len(without_secrets(long, frozenset())) <= 1000


def test_a_long_body_is_cut_between_words_and_not_in_a_secret() -> None:
    body = "sig=0f " * 125 + "AKIAZZZZZZZZZZZZZZZZ" * 20 + " the end"
    assert "AKIA" not in without_secrets("x" * 990 + body, frozenset())
    for length in range(980, 1001):
        assert "AKIA" not in without_secrets(f"{'a ' * 1000}"[:length] + " AKIAZZZZZZZZZZZZZZZZ", frozenset())
