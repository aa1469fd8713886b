"""What a host gets to see of us: name, formats, and a password only where it belongs."""

from __future__ import annotations

import base64
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
import trustme

import jobs
from jobs.errors import SettingsError
from jobs.settings import load_settings
from jobs.storage.http import FetchLimits, HttpStore
from jobs.storage.http_request import Origin, user_agent
from tests.jobs.resolver import Resolver
from tests.jobs.tls import server_context
from tests.jobs.web_server import reply, serving

LIMITS = FetchLimits(timeout_seconds=5, allow_hosts=("127.0.0.1", "localhost"))


class Recorder:
    """Answers, and keeps the headers of every request."""

    def __init__(self, **redirects: str) -> None:
        self.headers: list[dict[str, str]] = []
        self.redirects = redirects  # path without slash -> location

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        self.headers.append(dict(handler.headers))
        location = self.redirects.get(handler.path.strip("/"))
        answer = reply(200, b"here") if location is None else reply(302, headers={"Location": location})
        answer(handler)

    @property
    def authorizations(self) -> list[str | None]:
        return [headers.get("Authorization") for headers in self.headers]


def basic(userinfo: str) -> str:
    return "Basic " + base64.b64encode(userinfo.encode()).decode()


def with_user(url: str, userinfo: str) -> str:
    return url.replace("://", f"://{userinfo}@")


@pytest.mark.parametrize(
    ("userinfo", "sent"),
    [
        ("user:pass", "user:pass"),
        ("user", "user:"),
        (":pass", ":pass"),
        ("us%40er:p%3Aa%2Fss%25", "us@er:p:a/ss%"),
        ("user:p@ss:word", "user:p@ss:word"),
        ("%C3%BC:%E2%82%AC", "ü:€"),
        ("ü:€", "ü:€"),
    ],
)
def test_user_and_password_of_a_url_are_sent_decoded(userinfo: str, sent: str) -> None:
    host = Recorder()
    with serving({}, otherwise=host) as url:
        assert HttpStore(LIMITS).read(with_user(url, userinfo)) == b"here"
    assert host.authorizations == [basic(sent)]


def test_without_a_user_nothing_is_sent() -> None:
    host = Recorder()
    with serving({}, otherwise=host) as url:
        for each in (url, with_user(url, "")):
            HttpStore(LIMITS).read(each)
    assert host.authorizations == [None, None]


def test_a_password_stays_on_a_redirect_within_its_host_and_goes_to_no_other() -> None:
    there = Recorder()
    with serving({}, otherwise=there) as elsewhere:
        here = Recorder(a="/b", b="/c", c=f"{elsewhere}/d")
        with serving({}, otherwise=here) as url:
            HttpStore(LIMITS).read(with_user(url, "user:pass") + "/a")
    assert here.authorizations == [basic("user:pass")] * 3
    assert there.authorizations == [None]


def test_a_password_does_not_follow_to_another_name_of_the_same_machine() -> None:
    host = Recorder()
    with serving({}, otherwise=host) as url:
        host.redirects["a"] = url.replace("127.0.0.1", "localhost") + "/b"
        HttpStore(LIMITS).read(with_user(url, "user:pass") + "/a")
    assert host.authorizations == [basic("user:pass"), None]


def test_a_password_does_not_follow_from_https_to_http(authority: trustme.CA, resolver: Resolver) -> None:
    resolver.answers["good.test"] = [["127.0.0.1"]]
    plain = Recorder()
    with serving({}, otherwise=plain) as http_url:
        away = Recorder(a=http_url.replace("127.0.0.1", "good.test"))
        with serving({}, otherwise=away, tls=server_context(authority.issue_cert("good.test"))) as url:
            named = with_user(url.replace("127.0.0.1", "good.test"), "user:pass")
            HttpStore(replace(LIMITS, allow_hosts=("good.test",))).read(f"{named}/a")
    assert away.authorizations == [basic("user:pass")]
    assert plain.authorizations == [None]


@pytest.mark.parametrize(
    ("to", "trusted"),
    [
        (Origin("http", "a.test", 80), True),
        (Origin("https", "a.test", 443), True),  # the same host's https
        (Origin("https", "a.test", 8443), False),
        (Origin("http", "a.test", 8080), False),
        (Origin("http", "x.a.test", 80), False),
    ],
)
def test_a_password_for_http_may_go_to_the_same_host_and_its_https(to: Origin, trusted: bool) -> None:
    assert Origin("http", "a.test", 80).trusts(to) is trusted
    assert not Origin("https", "a.test", 443).trusts(Origin("http", "a.test", 80))


def headers_for(limits: FetchLimits) -> dict[str, str]:
    host = Recorder()
    with serving({}, otherwise=host) as url:
        HttpStore(limits).read(url)
    return host.headers[0]


def test_the_user_agent_has_name_version_and_contact(monkeypatch: pytest.MonkeyPatch) -> None:
    assert headers_for(LIMITS)["User-Agent"] == f"batch-renderer/{jobs.__version__}"
    monkeypatch.setenv("RENDER_FETCH_CONTACT", " https://example.org/bot?a=b; mail@example.org ")
    monkeypatch.setenv("RENDER_ALLOW_HOSTS", "127.0.0.1")
    agent = headers_for(FetchLimits.of(load_settings()))["User-Agent"]
    assert agent == f"batch-renderer/{jobs.__version__} (+https://example.org/bot?a=b; mail@example.org)"


@pytest.mark.parametrize(
    "contact", ["a\r\nX: y", "a\nb", "a\rb", "a\0b", "a)b", "(a", "a\\b", "é@example.org", "a" * 201]
)
def test_a_contact_that_would_break_the_header_stops_start_up(contact: str) -> None:
    with pytest.raises(SettingsError, match="RENDER_FETCH_CONTACT"):
        load_settings(fetch_contact=contact)


def test_a_line_break_at_the_end_of_a_contact_is_cut() -> None:
    assert user_agent(load_settings(fetch_contact="a@example.org\r\n").fetch_contact).endswith("(+a@example.org)")


def test_accept_names_formats_and_takes_anything_last() -> None:
    headers: dict[str, Any] = headers_for(replace(LIMITS, accept="image/png,*/*;q=0.1"))
    assert headers["Accept"] == "image/png,*/*;q=0.1"
    assert headers["Accept-Encoding"] == "identity"
    assert "image/jpeg" in headers_for(LIMITS)["Accept"]
