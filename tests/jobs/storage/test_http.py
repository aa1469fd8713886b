"""Fetching what strangers name: statuses, limits and private addresses."""

from __future__ import annotations

import datetime
import gzip
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from itertools import chain, repeat

import pytest
import trustme

from jobs.errors import (
    NotAnImage,
    RenderError,
    SourceForbidden,
    SourceNotFound,
    SourceTooLarge,
    SourceUnavailable,
)
from jobs.storage.http import FetchLimits, HttpStore
from tests.jobs.resolver import Resolver
from tests.jobs.tls import server_context
from tests.jobs.web_server import Answer, reply, serving

LIMITS = FetchLimits(timeout_seconds=5, max_bytes=1000, allow_hosts=("127.0.0.1",))


def fetch(url: str, limits: FetchLimits) -> bytes:
    return HttpStore(limits).read(url)


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


def test_a_compressed_reply_is_unpacked_within_the_cap() -> None:
    small, bomb = (gzip.compress(b"x" * size) for size in (1000, 100_000))
    packed = {"Content-Encoding": "gzip"}
    with serving({"/a": reply(200, small, headers=packed), "/b": reply(200, bomb, headers=packed)}) as url:
        assert fetch(f"{url}/a", LIMITS) == b"x" * 1000
        with pytest.raises(SourceTooLarge, match="RENDER_FETCH_MAX_BYTES"):
            fetch(f"{url}/b", LIMITS)


def test_an_endless_stream_is_cut_at_the_cap() -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" * 4096)

    with serving({"/a": endless}) as url, pytest.raises(SourceTooLarge):
        fetch(f"{url}/a", LIMITS)


@contextmanager
def saying(*pieces: bytes, every_seconds: float = 0.05) -> Iterator[str]:
    """A server below HTTP: says the pieces to the first who connects, the last one for ever."""
    stop = threading.Event()

    def talk(listener: socket.socket) -> None:
        with suppress(OSError), listener.accept()[0] as peer:
            for piece in chain(pieces, repeat(pieces[-1])):
                peer.sendall(piece)
                if stop.wait(every_seconds):
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=talk, args=[listener])
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            stop.set()
            thread.join()


DRIPS = {
    "a byte of the status": [b"HTTP/1.1 200", b" "],
    "a byte of a header": [b"HTTP/1.1 200 OK\r\nX: ", b"x"],
    "one interim answer after the other": [b"HTTP/1.1 100 Continue\r\n\r\n"],
    "a byte of a chunk's size": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"],
    "a byte of a trailer": [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"x"],
    "a byte of the body": [b"HTTP/1.1 200 OK\r\n\r\n", b"x"],
    "nothing": [b""],
}


@pytest.mark.parametrize("pieces", DRIPS.values(), ids=DRIPS.keys())
def test_a_drip_ends_at_the_deadline_wherever_it_comes(pieces: list[bytes]) -> None:
    """Each piece comes well within any timeout of the socket's."""
    limits = FetchLimits(timeout_seconds=0.5, max_bytes=1000, allow_hosts=("127.0.0.1",))
    with saying(*pieces) as server, pytest.raises(SourceUnavailable, match="RENDER_FETCH_TIMEOUT_SECONDS"):
        fetch(f"http://{server}/a", limits)


def test_a_drip_in_the_tls_handshake_ends_at_the_deadline_too() -> None:
    limits = FetchLimits(timeout_seconds=0.5, allow_hosts=("127.0.0.1",))
    record = b"\x16\x03\x03\x40\x00"  # a handshake message of 16 KiB, of which a byte arrives now and then
    with saying(record, b"\x02") as server, pytest.raises(SourceUnavailable, match="RENDER_FETCH_TIMEOUT_SECONDS"):
        fetch(f"https://{server}/a", limits)


def test_a_host_that_answers_no_connection_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as stack:
        for _ in range(2):  # fill the queue of a server that accepts nobody: further connections are not answered
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        limits = FetchLimits(timeout_seconds=0.5, allow_hosts=("127.0.0.1",))
        with pytest.raises(SourceUnavailable, match="RENDER_FETCH_TIMEOUT_SECONDS"):
            fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/a", limits)


@pytest.mark.parametrize("length", ["abc", "-5", "\xb2", "1e3", ""])
def test_a_nonsensical_content_length_is_no_reason_to_fail(length: str) -> None:
    with serving({"/a": reply(200, b"body", headers={"Content-Length": length})}) as url:
        assert fetch(f"{url}/a", LIMITS) == b"body"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000,
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 999999 OK\r\n\r\n",
        b"\r\n" * 100,
        b"\0" * 70_000,
    ],
)
def test_what_is_no_http_is_worth_another_try_and_no_more(answer: bytes) -> None:
    with saying(answer, every_seconds=0.3) as server, pytest.raises(SourceUnavailable):
        fetch(f"http://{server}/a", FetchLimits(timeout_seconds=1, allow_hosts=("127.0.0.1",)))


def test_paths_and_queries_arrive_as_they_were_written() -> None:
    def echo(handler: BaseHTTPRequestHandler) -> None:
        reply(200, f"{handler.path} {handler.headers['Host']}".encode())(handler)

    with serving({}, otherwise=echo) as url:
        host = url.removeprefix("http://")
        signed = "/a%20b/c?X-Amz-Signature=ab%2Fcd&x=1+2&y=a/b?c"
        assert fetch(f"{url}{signed}", LIMITS).decode() == f"{signed} {host}"
        assert fetch(f"{url}/ü b.png?q=é", LIMITS).decode() == f"/%C3%BC%20b.png?q=%C3%A9 {host}"
        assert fetch(url, LIMITS).decode() == f"/ {host}"


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


def test_a_redirect_to_nonsense_is_refused() -> None:
    for location in ("http://[", "http://:80/", "//", "ftp://h/a", "http://a..b/"):
        with serving({"/a": reply(302, headers={"Location": location})}) as url, pytest.raises(SourceForbidden):
            fetch(f"{url}/a", LIMITS)


def test_a_name_is_resolved_once_and_the_connection_goes_to_what_was_checked(resolver: Resolver) -> None:
    """DNS rebinding: the second answer would be another machine."""
    resolver.answers["rebind.test"] = [["127.0.0.1"], ["127.0.0.66"]]
    with serving({"/a": reply(200, b"here")}) as url:
        port = url.rpartition(":")[2]
        assert fetch(f"http://rebind.test:{port}/a", FetchLimits(allow_hosts=("rebind.test",))) == b"here"
    assert resolver.asked == ["rebind.test"]


def test_a_name_that_turns_private_between_two_redirects_is_refused(resolver: Resolver) -> None:
    resolver.answers["begin.test"] = [["127.0.0.1"]]
    resolver.answers["rebind.test"] = [["10.0.0.1"]]
    with serving({"/a": reply(307, headers={"Location": "http://rebind.test/b"})}) as url:
        port = url.rpartition(":")[2]
        with pytest.raises(SourceForbidden, match=r"rebind\.test has the private address 10\.0\.0\.1"):
            fetch(f"http://begin.test:{port}/a", FetchLimits(allow_hosts=("begin.test",)))
    assert resolver.asked == ["begin.test", "rebind.test"]


def test_the_next_address_is_tried_where_one_does_not_answer(resolver: Resolver) -> None:
    resolver.answers["two.test"] = [["127.0.0.66", "127.0.0.1"]]
    with serving({"/a": reply(200, b"here")}) as url:
        port = url.rpartition(":")[2]
        assert fetch(f"http://two.test:{port}/a", FetchLimits(allow_hosts=("two.test",))) == b"here"


def test_https_is_read_where_the_certificate_is_for_the_name(authority: trustme.CA, resolver: Resolver) -> None:
    resolver.answers["good.test"] = [["127.0.0.1"]]
    certificate = server_context(authority.issue_cert("good.test", "127.0.0.1"))
    with serving({"/a": reply(200, b"here")}, tls=certificate) as url:
        assert fetch(f"{url}/a", LIMITS) == b"here"
        named = url.replace("127.0.0.1", "good.test")
        assert fetch(f"{named}/a", FetchLimits(allow_hosts=("good.test",))) == b"here"


def test_a_certificate_for_another_name_is_refused(authority: trustme.CA, resolver: Resolver) -> None:
    resolver.answers["good.test"] = [["127.0.0.1"]]
    with serving({}, tls=server_context(authority.issue_cert("evil.test"))) as url:
        named = url.replace("127.0.0.1", "good.test")
        with pytest.raises(SourceForbidden, match=r"certificate is not valid: .*good\.test"):
            fetch(f"{named}/a", FetchLimits(allow_hosts=("good.test",)))


def test_a_certificate_of_nobody_or_of_the_past_is_refused(authority: trustme.CA) -> None:
    past = authority.issue_cert("127.0.0.1", not_after=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
    for certificate in (trustme.CA().issue_cert("127.0.0.1"), past):
        with serving({}, tls=server_context(certificate)) as url:
            with pytest.raises(SourceForbidden, match="certificate is not valid"):
                fetch(f"{url}/a", LIMITS)


def test_a_redirect_loop_ends() -> None:
    with serving({"/a": reply(302, headers={"Location": "/a"})}) as url:
        with pytest.raises(SourceForbidden, match="redirected"):
            fetch(f"{url}/a", LIMITS)


def test_a_password_in_a_url_does_not_reach_the_error() -> None:
    with serving({}) as url, pytest.raises(SourceNotFound) as caught:
        fetch(url.replace("http://", "http://user:secret@") + "/a?signature=secret", LIMITS)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://user:se/cret@host/a", "http://[user:secret@host", "http://user:secret@℀.x/a"])
def test_a_password_in_an_unusable_url_does_not_reach_the_error(url: str) -> None:
    with pytest.raises(SourceForbidden) as caught:
        fetch(url, LIMITS)
    assert "cret" not in str(caught.value)
