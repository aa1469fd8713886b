"""The HTTP server that workers and `producer keep` share: what it answers, and what it bears."""

from __future__ import annotations

import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from http import HTTPStatus

import pytest

from jobs import http_server
from jobs.http_server import HttpServer, Reply, Request
from tests.eventually import eventually

Answer = Callable[[Request], Reply]


@pytest.fixture
def serving() -> Iterator[Callable[..., HttpServer]]:
    with ExitStack() as stack:

        def serve(answer: Answer = echoed, **options: int) -> HttpServer:
            server = HttpServer("127.0.0.1", 0, answer=answer, **options)
            server.start()
            stack.callback(server.stop)
            return server

        yield serve


def echoed(request: Request) -> Reply:
    return Reply.text(HTTPStatus.OK, f"{request.path} {request.headers.get('host')}")


def connected(server: HttpServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def sent(server: HttpServer, text: str) -> str:
    """All that comes back for what is sent."""
    with connected(server) as client:
        client.sendall(text.encode())
        return rest(client)


def rest(client: socket.socket) -> str:
    data = b""
    try:
        while piece := client.recv(2**16):
            data += piece
    except ConnectionError:  # the server closed it before it had read all
        pass
    return data.decode()


def test_a_query_is_no_part_of_the_path(serving: Callable[..., HttpServer]) -> None:
    assert sent(serving(), "GET /a?b=/c HTTP/1.1\r\nHost: x\r\n\r\n").endswith("\r\n\r\n/a x\n")


def test_every_reply_forbids_guessing_its_type_and_keeping_it(serving: Callable[..., HttpServer]) -> None:
    reply = sent(serving(), "GET / HTTP/1.0\r\n\r\n")
    assert "X-Content-Type-Options: nosniff\r\n" in reply
    assert "Cache-Control: no-store\r\n" in reply
    assert "Referrer-Policy: no-referrer\r\n" in reply
    assert "Python" not in reply


def test_head_has_no_body(serving: Callable[..., HttpServer]) -> None:
    reply = sent(serving(), "HEAD / HTTP/1.0\r\n\r\n")
    assert "Content-Length: 7\r\n" in reply
    assert reply.endswith("\r\n\r\n")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"])
def test_nothing_can_be_changed(serving: Callable[..., HttpServer], method: str) -> None:
    reply = sent(serving(), f"{method} / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert reply.startswith("HTTP/1.0 405 ")
    assert "Allow: GET, HEAD\r\n" in reply


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("BREW / HTTP/1.1\r\n\r\n", 501),
        ("GET / HTTP/9.9\r\n\r\n", 505),
        ("nonsense\r\n\r\n", 400),
        (f"GET /{'a' * 70_000} HTTP/1.1\r\n\r\n", 414),
        ("GET / HTTP/1.1\r\n" + "a: b\r\n" * 200 + "\r\n", 431),
        (f"GET / HTTP/1.1\r\na: {'b' * 70_000}\r\n\r\n", 431),
        ("GET / HTTP/1.1\r\n" + f"a: {'b' * 1_000}\r\n" * 33 + "\r\n", 431),
    ],
)
def test_what_is_no_request_is_refused_in_a_line(serving: Callable[..., HttpServer], text: str, status: int) -> None:
    reply = sent(serving(), text)
    assert reply.startswith(f"HTTP/1.0 {status} "), reply
    assert "<" not in reply


def test_what_proxies_and_browsers_add_to_a_request_is_taken(serving: Callable[..., HttpServer]) -> None:
    cookies = f"Cookie: {'c' * 7_000}\r\n" * 4
    assert sent(serving(), f"GET /a HTTP/1.1\r\nHost: x\r\n{cookies}\r\n").endswith("\r\n\r\n/a x\n")


def test_many_clients_with_long_headers_take_little_memory(serving: Callable[..., HttpServer]) -> None:
    """The base class copies header lines several times: 60 clients took 2 GB."""
    server = serving()
    request = b"GET / HTTP/1.1\r\n" + (b"a: " + b"b" * 65_000 + b"\r\n") * 98
    tracemalloc.start()
    try:
        with ExitStack() as stack:
            clients = [stack.enter_context(connected(server)) for _ in range(20)]
            for client in clients:
                with suppress(ConnectionError):  # it is refused before all is sent
                    client.sendall(request)
            for client in clients:
                assert rest(client)[:12] in ("HTTP/1.0 431", "")
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 20 * 2**20


def test_a_fault_is_an_answer_and_the_next_request_works(serving: Callable[..., HttpServer]) -> None:
    def answer(request: Request) -> Reply:
        if request.path == "/broken":
            raise KeyError("secret")
        return echoed(request)

    server = serving(answer)
    broken = sent(server, "GET /broken HTTP/1.0\r\n\r\n")
    assert broken.startswith("HTTP/1.0 500 ")
    assert "secret" not in broken
    assert sent(server, "GET /ok HTTP/1.0\r\n\r\n").startswith("HTTP/1.0 200 ")


def test_clients_that_send_nothing_keep_no_one_out(serving: Callable[..., HttpServer]) -> None:
    server = serving(connections=4)
    with ExitStack() as stack:
        silent = [stack.enter_context(connected(server)) for _ in range(20)]
        for client in silent[::2]:
            client.sendall(b"GET / HT")  # begins, and never ends
        assert sent(server, "GET / HTTP/1.0\r\n\r\n").startswith("HTTP/1.0 200 ")
        assert rest(silent[0]) == ""  # the oldest one was closed


def test_a_client_that_sends_too_slowly_is_closed(
    serving: Callable[..., HttpServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "REQUEST_SECONDS", 0.3)
    with connected(serving()) as client:
        closed = threading.Event()

        def drip() -> None:
            while not closed.wait(0.05):
                try:
                    client.sendall(b"a")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        assert rest(client) == ""
        closed.set()
        thread.join()


def test_requests_that_are_being_answered_are_not_given_up_for_others(serving: Callable[..., HttpServer]) -> None:
    goes_on, begun = threading.Event(), threading.Semaphore(0)

    def answer(request: Request) -> Reply:
        begun.release()
        goes_on.wait(60)
        return echoed(request)

    server = serving(answer, connections=2)
    with connected(server) as first, connected(server) as second:
        for client in (first, second):
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert begun.acquire(timeout=60)
        assert sent(server, "GET / HTTP/1.0\r\n\r\n") == ""  # there is no room
        goes_on.set()
        assert rest(first).startswith("HTTP/1.0 200 ")
        assert rest(second).startswith("HTTP/1.0 200 ")
    eventually(lambda: sent(server, "GET / HTTP/1.0\r\n\r\n").startswith("HTTP/1.0 200 "))


def test_it_listens_on_ipv6(serving: Callable[..., HttpServer]) -> None:
    try:
        server = HttpServer("::1", 0, answer=echoed)
    except OSError:
        pytest.skip("this machine has no IPv6")
    server.start()
    with socket.create_connection(("::1", server.port), timeout=30) as client:
        client.sendall(b"GET /six HTTP/1.0\r\n\r\n")
        assert rest(client).endswith("/six None\n")
    server.stop()
