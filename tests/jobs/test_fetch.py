"""Fetching what strangers name: statuses, limits and private addresses."""

from __future__ import annotations

import gzip
import socket
import threading
import time
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
from jobs.fetch import FetchLimits, fetch, is_global
from tests.jobs.web_server import Answer, reply, serving

LIMITS = FetchLimits(timeout_seconds=5, max_bytes=1000, allow_hosts=("127.0.0.1",))


def test_a_body_arrives_whole() -> None:
    with serving({"/a.png": reply(200, b"x" * 1000)}) as url:
        assert fetch(f"{url}/a.png", LIMITS) == b"x" * 1000


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, SourceNotFound),
        (410, SourceNotFound),
        (401, SourceForbidden),
        (403, SourceForbidden),
        (429, SourceUnavailable),
        (500, SourceUnavailable),
        (503, SourceUnavailable),
        (418, NotAnImage),
    ],
)
def test_a_status_becomes_the_error_that_says_whether_to_retry(status: int, error: type[RenderError]) -> None:
    with serving({"/a.png": reply(status)}) as url, pytest.raises(error, match=str(status)):
        fetch(f"{url}/a.png", LIMITS)


def test_an_announced_size_over_the_cap_is_refused_before_reading() -> None:
    with serving({"/a": reply(200, headers={"Content-Length": "9999999"})}) as url:
        with pytest.raises(SourceTooLarge, match="RENDER_FETCH_MAX_BYTES"):
            fetch(f"{url}/a", LIMITS)


def chunked(parts: int) -> Answer:
    """A chunked reply of `parts` times 100 bytes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for _ in range(parts):
            handler.wfile.write(b"64\r\n" + b"x" * 100 + b"\r\n")
        handler.wfile.write(b"0\r\n\r\n")

    return answer


def test_a_chunked_body_arrives_whole_and_is_capped_too() -> None:
    with serving({"/a": chunked(5), "/b": chunked(11)}) as url:
        assert fetch(f"{url}/a", LIMITS) == b"x" * 500
        with pytest.raises(SourceTooLarge):
            fetch(f"{url}/b", LIMITS)


def test_a_compressed_reply_is_not_unpacked() -> None:
    packed = gzip.compress(b"x" * 100_000)
    with serving({"/a": reply(200, packed, headers={"Content-Encoding": "gzip"})}) as url:
        assert fetch(f"{url}/a", LIMITS) == packed


def test_an_endless_stream_is_cut_at_the_cap() -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * 4096)

    with serving({"/a": endless}) as url, pytest.raises(SourceTooLarge):
        fetch(f"{url}/a", LIMITS)


def test_a_slow_drip_ends_at_the_deadline() -> None:
    stop = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not stop.wait(0.05):
            handler.wfile.write(b"x")
            handler.wfile.flush()

    limits = FetchLimits(timeout_seconds=0.5, max_bytes=1000, allow_hosts=("127.0.0.1",))
    started = time.monotonic()
    with serving({"/a": drip}) as url:
        try:
            with pytest.raises(SourceUnavailable, match="RENDER_FETCH_TIMEOUT_SECONDS"):
                fetch(f"{url}/a", limits)
        finally:
            stop.set()
    assert time.monotonic() - started < 5


def test_a_body_cut_short_is_worth_another_try() -> None:
    with serving({"/a": reply(200, b"half", headers={"Content-Length": "8"})}) as url, pytest.raises(SourceUnavailable):
        fetch(f"{url}/a", LIMITS)


def test_a_refused_connection_is_worth_another_try() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(SourceUnavailable):
        fetch(f"http://127.0.0.1:{port}/a", LIMITS)


def test_a_redirect_is_followed() -> None:
    with serving({"/a": reply(302, headers={"Location": "/b"}), "/b": reply(200, b"here")}) as url:
        assert fetch(f"{url}/a", LIMITS) == b"here"


def test_a_redirect_to_a_private_address_is_refused() -> None:
    away = reply(302, headers={"Location": "http://169.254.169.254/latest/meta-data/"})
    with serving({"/a": away}) as url, pytest.raises(SourceForbidden, match=r"169\.254\.169\.254"):
        fetch(f"{url}/a", LIMITS)


def test_a_redirect_to_another_scheme_is_refused() -> None:
    with serving({"/a": reply(302, headers={"Location": "file:///etc/passwd"})}) as url:
        with pytest.raises(SourceForbidden, match="only http"):
            fetch(f"{url}/a", LIMITS)


def test_a_redirect_loop_ends() -> None:
    with serving({"/a": reply(302, headers={"Location": "/a"})}) as url:
        with pytest.raises(SourceForbidden, match="redirected"):
            fetch(f"{url}/a", LIMITS)


def test_a_private_host_is_refused_unless_it_is_allowed() -> None:
    with pytest.raises(SourceForbidden, match="RENDER_ALLOW_HOSTS"):
        fetch("http://127.0.0.1:1/a", FetchLimits())
    with pytest.raises(SourceForbidden, match="RENDER_ALLOW_HOSTS"):
        fetch("http://localhost:1/a", FetchLimits())


def test_an_unknown_host_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_such_name(*args: object, **options: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    with pytest.raises(SourceNotFound, match=r"nowhere\.example"):
        fetch("http://nowhere.example/a", LIMITS)


def test_a_password_in_a_url_does_not_reach_the_error() -> None:
    with serving({}) as url, pytest.raises(SourceNotFound) as caught:
        fetch(url.replace("http://", "http://user:secret@") + "/a?signature=secret", LIMITS)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
    ],
)
def test_only_addresses_of_the_public_internet_are_global(address: str, expected: bool) -> None:
    assert is_global(address) is expected
