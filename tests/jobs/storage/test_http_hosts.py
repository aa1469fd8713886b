"""Many threads and one host: how many ask at once, and that none asks before the host allows it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler

import pytest

from jobs.errors import Cancelled, RenderError, SourceForbidden, SourceUnavailable
from jobs.storage.host_limits import MAX_HOSTS, HostLimits
from jobs.storage.http import FetchLimits, HttpStore
from tests.eventually import eventually
from tests.jobs.rate_limited import RateLimited
from tests.jobs.web_server import Answer, reply, serving


def limits(at_once: int = 8, **fields: object) -> FetchLimits:
    """A process's limits: reads that are given the same ones share them."""
    return replace(
        FetchLimits(timeout_seconds=5, allow_hosts=("127.0.0.1",), hosts=HostLimits(at_once)),
        **fields,  # type: ignore[arg-type]
    )


def fetch_all(urls: list[str], shared: FetchLimits, *, threads: int) -> list[bytes | RenderError]:
    def fetch(url: str) -> bytes | RenderError:
        try:
            return HttpStore(shared).read(url)
        except RenderError as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(fetch, urls))


@pytest.mark.parametrize(("retry_after", "status"), [(True, 429), (True, 503), (False, 429)])
def test_a_host_that_allows_ten_at_a_time_serves_all_rows_and_refuses_few(retry_after: bool, status: int) -> None:
    host = RateLimited(b"picture", allowed=10, seconds=1.0, retry_after=retry_after, status=status)
    with serving({}, otherwise=host) as url:
        answers = fetch_all([f"{url}/{row}.png" for row in range(30)], limits(), threads=16)
    assert answers == [b"picture"] * 30
    assert host.refused <= 16
    if retry_after:  # only those that were under way when the host refused the first one
        assert host.most_refused <= 8


def counting(seconds: float) -> tuple[Answer, Callable[[], int]]:
    """A slow answer, and how many of it were under way at once."""
    lock, now, most = threading.Lock(), [0], [0]

    def answer(handler: BaseHTTPRequestHandler) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(seconds)
        with lock:
            now[0] -= 1
        reply(200, b"here")(handler)

    return answer, lambda: most[0]


def test_no_more_than_so_many_requests_go_to_one_host_at_once() -> None:
    answer, most = counting(0.05)
    with serving({}, otherwise=answer) as url:
        assert fetch_all([url] * 24, limits(3), threads=12) == [b"here"] * 24
    assert most() == 3


def test_waiting_for_a_turn_is_no_time_of_the_fetch() -> None:
    """Eight fetches of 0.3 s, one after the other, each of which may take 1 s."""
    answer, most = counting(0.3)
    with serving({}, otherwise=answer) as url:
        assert fetch_all([url] * 8, limits(1, timeout_seconds=1.0), threads=8) == [b"here"] * 8
    assert most() == 1


def test_a_redirect_frees_the_place_at_the_first_host() -> None:
    """With one place at each host, two hosts that redirect to each other would otherwise wait for ever."""
    with serving({}, otherwise=reply(200, b"here")) as there:
        with serving({}, otherwise=reply(302, headers={"Location": f"{there}/a"})) as here:
            assert fetch_all([here] * 6, limits(1), threads=6) == [b"here"] * 6


def test_another_host_is_not_held_up() -> None:
    shared = limits(1)
    with serving({}, otherwise=reply(429, headers={"Retry-After": "3000"})) as closed:
        with serving({}, otherwise=reply(200, b"here")) as opened:
            with pytest.raises(SourceUnavailable):
                HttpStore(shared).read(closed)
            assert HttpStore(shared).read(opened) == b"here"


def test_a_long_pause_is_an_error_with_its_seconds_for_all_threads_and_nobody_asks_again() -> None:
    asked = []

    def refuse(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        reply(503, b"down for maintenance", headers={"Retry-After": "600", "Content-Type": "text/plain"})(handler)

    shared = limits()
    with serving({}, otherwise=refuse) as url:
        with pytest.raises(SourceUnavailable, match=r"503.*down for maintenance") as first:
            HttpStore(shared).read(url)
        assert 600 <= (first.value.retry_after_seconds or 0) <= 660
        errors = fetch_all([url] * 5, shared, threads=5)
    assert len(asked) == 1
    for error in errors:
        assert isinstance(error, SourceUnavailable)
        assert "allows no request for another" in str(error)
        assert 590 <= (error.retry_after_seconds or 0) <= 660
        assert not error.blameless  # the host has never served


def test_a_host_that_serves_others_blames_no_job_that_it_refuses() -> None:
    shared = limits()
    with serving({"/a": reply(200, b"a"), "/b": reply(429, headers={"Retry-After": "100"})}) as url:
        HttpStore(shared).read(f"{url}/a")
        for path in ("b", "a"):
            with pytest.raises(SourceUnavailable) as caught:
                HttpStore(shared).read(f"{url}/{path}")
            assert caught.value.blameless


def test_a_url_that_is_refused_again_and_again_while_others_are_served_is_to_blame_itself() -> None:
    hosts = HostLimits()
    with hosts.visit("good", lambda: None).turn("a.test:80", "a URL") as turn:
        turn.served()
    visit = hosts.visit("bad", lambda: None)
    with visit.turn("a.test:80", "a URL") as turn:
        places, blameless = [visit.number], []
        for _ in range(6):
            blameless.append(turn.refused(0.0)[1])
            places.append(visit.number)
    assert blameless == [True, True, True, True, False, False]
    assert places[0] == places[1] < places[2] == places[3] < places[4]  # behind the others, after every second time


def test_a_url_that_is_always_refused_does_not_hold_up_the_others() -> None:
    with serving({"/bad": reply(429, headers={"Retry-After": "0"})}, otherwise=reply(200, b"here")) as url:
        urls = [f"{url}/bad", *(f"{url}/{row}" for row in range(20))]
        bad, *others = fetch_all(urls, limits(2, wait_seconds=20.0), threads=21)
    assert isinstance(bad, SourceUnavailable)
    assert others == [b"here"] * 20


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("100", 100, 110),
        ("100.5", 100, 111),
        ("9" * 200, 3600, 3600),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600, 3600),
        ("in an hour", 3500, 3600),  # a date, as the header has it
    ],
)
def test_retry_after_is_seconds_or_a_date_and_an_absurd_one_is_an_hour(value: str, low: float, high: float) -> None:
    value = formatdate(time.time() + 3600, usegmt=True) if value == "in an hour" else value
    with serving({}, otherwise=reply(429, headers={"Retry-After": value})) as url:
        with pytest.raises(SourceUnavailable) as caught:
            HttpStore(limits()).read(url)
    assert low - 1 <= (caught.value.retry_after_seconds or 0) <= high + 0.001  # a sum and a difference of clocks


@pytest.mark.parametrize("value", ["", "-5", "soon", "nan", "1e9", "\xb2", "Mon, 99 Foo 2026", "0x10", "inf", "5, 6"])
def test_a_nonsensical_retry_after_is_none(value: str) -> None:
    with serving({}, otherwise=reply(429, headers={"Retry-After": value})) as url:
        with pytest.raises(SourceUnavailable) as caught:
            HttpStore(limits()).read(url)
    assert 0 < (caught.value.retry_after_seconds or 0) <= 1


def test_the_hosts_own_clock_counts_where_it_tells_the_time() -> None:
    yesterday = time.time() - 86400

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response_only(429)
        handler.send_header("Date", formatdate(yesterday, usegmt=True))
        handler.send_header("Retry-After", formatdate(yesterday + 200, usegmt=True))
        handler.end_headers()

    with serving({}, otherwise=answer) as url, pytest.raises(SourceUnavailable) as caught:
        HttpStore(limits()).read(url)
    assert 190 <= (caught.value.retry_after_seconds or 0) <= 220


def test_a_refusal_for_who_asks_too_often_is_told_from_one_for_good() -> None:
    with serving({"/a": reply(403, headers={"Retry-After": "100"}), "/b": reply(403)}) as url:
        with pytest.raises(SourceForbidden):
            HttpStore(limits()).read(f"{url}/b")
        with pytest.raises(SourceUnavailable):
            HttpStore(limits()).read(f"{url}/a")


def test_a_pause_that_is_over_before_the_limit_is_waited_for_in_place() -> None:
    host = RateLimited(b"picture", allowed=1, seconds=0.5)
    with serving({}, otherwise=host) as url:
        shared = limits()
        assert [HttpStore(shared).read(url) for _ in range(2)] == [b"picture"] * 2
    assert (host.served, host.refused) == (2, 1)


def test_a_cancelled_job_does_not_wait_on() -> None:
    cancelled = threading.Event()

    def check() -> None:
        if cancelled.is_set():
            raise Cancelled("cancelled by the user")

    host = RateLimited(b"picture", allowed=1, seconds=50)
    shared = limits(check=check)
    with serving({}, otherwise=host) as url, ThreadPoolExecutor(3) as pool:
        HttpStore(shared).read(url)
        waiting = [pool.submit(HttpStore(shared).read, url) for _ in range(3)]
        eventually(lambda: host.refused >= 1, what="the host refuses")
        cancelled.set()
        for future in waiting:
            with pytest.raises(Cancelled):
                future.result()
    assert host.refused <= 3


def test_a_read_that_has_waited_long_enough_for_a_slow_host_says_so() -> None:
    answer, _ = counting(1.5)
    shared = limits(1, wait_seconds=0.5)
    with serving({}, otherwise=answer) as url:
        answers = fetch_all([url] * 2, shared, threads=2)
    (error,) = [each for each in answers if isinstance(each, RenderError)]
    assert "RENDER_FETCH_PER_HOST" in str(error)
    assert isinstance(error, SourceUnavailable)


def test_many_hosts_are_not_remembered_for_ever() -> None:
    hosts = HostLimits()
    for number in range(MAX_HOSTS + 500):
        with hosts.visit("a URL", lambda: None).turn(f"{number}.test:80", "a URL") as turn:
            turn.refused(1000.0)
    assert len(hosts._hosts) == MAX_HOSTS
