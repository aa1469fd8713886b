"""Proxy variables: which proxy a URL goes through, and that none of them opens the guard of addresses."""

from __future__ import annotations

import base64
import socket
from dataclasses import replace

import pytest
import trustme

from jobs.errors import RenderError, SourceForbidden, SourceUnavailable
from jobs.settings import load_settings
from jobs.storage.http import FetchLimits, HttpStore
from jobs.storage.proxies import Proxies
from tests.jobs.proxy_server import ProxyServer, proxy_server
from tests.jobs.resolver import Resolver
from tests.jobs.tls import server_context
from tests.jobs.web_server import reply, serving

PUBLIC = "93.184.216.34"
BASIC = "Basic " + base64.b64encode(b"who:p@ss").decode()


def limits(proxy: ProxyServer | str, **fields: object) -> FetchLimits:
    url = proxy if isinstance(proxy, str) else proxy.url
    made = FetchLimits(timeout_seconds=5, proxies=Proxies(http=url, https=url))
    return replace(made, **fields)  # type: ignore[arg-type]


def where(url: str) -> tuple[str, int]:
    return "127.0.0.1", int(url.rpartition(":")[2])


@pytest.fixture
def public(resolver: Resolver) -> str:
    """A host on the public internet, as far as the resolver says."""
    resolver.answers["pictures.test"] = [[PUBLIC]]
    return "pictures.test"


def test_http_goes_to_the_proxy_as_a_whole_url_and_the_name_is_checked_here(public: str, resolver: Resolver) -> None:
    with serving({"/a.png?x=1": reply(200, b"here")}) as url, proxy_server({public: where(url)}) as proxy:
        assert HttpStore(limits(proxy)).read(f"http://{public}:8080/a.png?x=1") == b"here"
    assert proxy.asked == [f"GET http://{public}:8080/a.png?x=1 HTTP/1.1"]
    assert proxy.headers[0]["Host"] == f"{public}:8080"
    assert resolver.asked == [public]


def test_https_goes_through_a_tunnel_and_the_certificate_is_the_hosts(public: str, authority: trustme.CA) -> None:
    good, evil = server_context(authority.issue_cert(public)), server_context(authority.issue_cert("evil.test"))
    with serving({"/a": reply(200, b"here")}, tls=good) as url, proxy_server({public: where(url)}) as proxy:
        assert HttpStore(limits(proxy)).read(f"https://{public}/a") == b"here"
    assert proxy.asked == [f"CONNECT {public}:443 HTTP/1.1"]
    with serving({}, tls=evil) as url, proxy_server({public: where(url)}) as proxy:
        with pytest.raises(SourceForbidden, match="certificate is not valid"):
            HttpStore(limits(proxy)).read(f"https://{public}/a")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_the_proxys_password_goes_to_the_proxy_alone(public: str, authority: trustme.CA, scheme: str) -> None:
    seen = []

    def answer(handler) -> None:  # type: ignore[no-untyped-def]
        seen.append(dict(handler.headers))
        reply(200, b"here")(handler)

    tls = server_context(authority.issue_cert(public)) if scheme == "https" else None
    with serving({}, otherwise=answer, tls=tls) as url, proxy_server({public: where(url)}, password=BASIC) as proxy:
        secret = proxy.url.replace("http://", "http://who:p%40ss@")
        assert HttpStore(limits(secret)).read(f"{scheme}://{public}/a") == b"here"
    assert proxy.headers[0]["Proxy-Authorization"] == BASIC
    assert "Proxy-Authorization" not in seen[0]
    assert "Authorization" not in seen[0]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", ["10.1.2.3", "localhost", "2130706433", "169.254.169.254", "[::1]", "inside.test"])
def test_a_private_target_is_refused_before_the_proxy_hears_of_it(resolver: Resolver, scheme: str, host: str) -> None:
    resolver.answers["inside.test"] = [["192.168.0.1"]]
    with proxy_server() as proxy:
        for resolves in (False, True):
            with pytest.raises(SourceForbidden, match="RENDER_ALLOW_HOSTS") as caught:
                HttpStore(limits(proxy, proxy_resolves=resolves)).read(f"{scheme}://{host}/a")
            assert (caught.value.fault, caught.value.scope) == ("worker", "settings")
    assert proxy.asked == []


def test_a_redirect_behind_the_proxy_is_checked_too(public: str) -> None:
    away = reply(302, headers={"Location": "http://169.254.169.254/latest/"})
    with serving({"/a": away}) as url, proxy_server({public: where(url)}) as proxy:
        with pytest.raises(SourceForbidden, match=r"169\.254\.169\.254"):
            HttpStore(limits(proxy)).read(f"http://{public}/a")
    assert len(proxy.asked) == 1


@pytest.mark.parametrize("number", [socket.EAI_NONAME, socket.EAI_AGAIN])
def test_a_name_that_only_the_proxy_knows_needs_a_setting(resolver: Resolver, number: int) -> None:
    resolver.answers["far.test"] = [socket.gaierror(number, "said the resolver")]
    with serving({}, otherwise=reply(200, b"here")) as url, proxy_server({"far.test": where(url)}) as proxy:
        with pytest.raises(SourceForbidden, match="RENDER_PROXY_RESOLVES") as caught:
            HttpStore(limits(proxy)).read("http://far.test/a")
        assert (caught.value.fault, caught.value.scope) == ("worker", "settings")
        assert proxy.asked == []
        assert HttpStore(limits(proxy, proxy_resolves=True)).read("http://far.test/a") == b"here"
        assert HttpStore(limits(proxy, allow_hosts=("far.test",))).read("http://far.test/a") == b"here"


@pytest.mark.parametrize("host", ["127.0.0.1.", "1.2.3.0x4", "0300.0250.0.1.", "127%2e0.0.1", "a b.test"])
def test_what_another_program_may_read_as_an_address_is_no_name(resolver: Resolver, host: str) -> None:
    resolver.answers[host] = [socket.gaierror(socket.EAI_NONAME, "said the resolver")]
    with proxy_server() as proxy, pytest.raises(SourceForbidden):
        HttpStore(limits(proxy, proxy_resolves=True)).read(f"http://{host}/a")
    assert proxy.asked == []


def expect(limits: FetchLimits, url: str, words: str) -> RenderError:
    with pytest.raises(RenderError, match=words) as caught:
        HttpStore(limits).read(url)
    assert "p@ss" not in str(caught.value)
    assert "p%40ss" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_down_is_the_workers_trouble_and_is_named(public: str, resolver: Resolver, scheme: str) -> None:
    resolver.answers["proxy.test"] = [socket.gaierror(socket.EAI_NONAME, "said the resolver")]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        proxy = f"http://who:p%40ss@127.0.0.1:{unused.getsockname()[1]}"
        error = expect(limits(proxy), f"{scheme}://{public}/a", rf"the proxy 127\.0\.0\.1:\d+ \({scheme}_proxy\)")
    assert (type(error), error.fault) == (SourceUnavailable, "worker")
    error = expect(limits("http://proxy.test:3128"), f"{scheme}://{public}/a", "cannot be resolved")
    assert (type(error), error.fault) == (SourceUnavailable, "worker")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_a_password_is_the_workers_fault(public: str, scheme: str) -> None:
    with proxy_server(password=BASIC) as proxy:
        error = expect(limits(proxy), f"{scheme}://{public}/a", f"{scheme}_proxy.*another user and password")
    assert (type(error), error.fault) == (SourceForbidden, "worker")


@pytest.mark.parametrize(
    ("status", "kind", "fault"), [(502, SourceUnavailable, "host"), (403, SourceForbidden, "worker")]
)
def test_a_proxy_that_opens_no_tunnel_says_so(public: str, status: int, kind: type, fault: str) -> None:
    with proxy_server(refuse=status) as proxy:
        error = expect(limits(proxy), f"https://{public}/a", f"https_proxy.*{status}")
    assert (type(error), error.fault) == (kind, fault)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("socks5://127.0.0.1:1080", "http_proxy begins with socks5://"),
        ("https://127.0.0.1:1", "http_proxy begins with https://"),
        ("http://", "http_proxy names no host"),
        ("http://who:p@ss@[::1", "http_proxy is not a usable URL"),
        ("http://who:p@ss@host:port", "http_proxy is not a usable URL"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_a_sentence_with_the_variable(public: str, value: str, words: str) -> None:
    error = expect(limits(value), f"http://{public}/a", words)
    assert (error.fault, error.scope) == ("worker", "settings")


@pytest.mark.parametrize(
    ("no", "direct", "proxied"),
    [
        ("*", ["a.test", "10.0.0.1"], []),
        ("a.test, .b.test *.c.test", ["a.test", "x.a.test", "b.test", "x.b.test", "y.c.test"], ["xa.test", "test"]),
        ("A.TEST.", ["a.test", "a.test."], ["b.test"]),
        ("10.0.0.0/8,::1,[fd00::1]", ["10.9.9.9", "::1", "fd00::1"], ["11.0.0.1", "::2"]),
        ("a.test:8080,10.0.0.1:8080,[::1]:8080", ["a.test", "10.0.0.1", "::1"], []),
        ("a.test:80,10.0.0.1:80,[::1]:80", [], ["a.test", "10.0.0.1", "::1"]),
        ("10.0.0.0/99, /, :, [, a:b:c", [], ["10.0.0.1", "a.test"]),
        ("", [], ["a.test"]),
    ],
)
def test_no_proxy_names_hosts_domains_addresses_and_networks(no: str, direct: list[str], proxied: list[str]) -> None:
    proxies = Proxies(http="proxy.test:3128", no=no)
    assert [host for host in direct if proxies.proxy_for("http", host, 8080) is not None] == []
    assert [host for host in proxied if proxies.proxy_for("http", host, 8080) is None] == []


@pytest.mark.parametrize(
    ("environment", "scheme", "expected"),
    [
        ({}, "http", None),
        ({"http_proxy": "http://p1:1"}, "http", "p1:1 (http_proxy)"),
        ({"http_proxy": "http://p1:1"}, "https", None),
        ({"HTTPS_PROXY": "p2:2"}, "https", "p2:2 (https_proxy)"),
        ({"http_proxy": "http://p1:1", "HTTP_PROXY": "http://p2:2"}, "http", "p1:1 (http_proxy)"),
        ({"http_proxy": "", "HTTP_PROXY": "http://p2:2"}, "http", None),
        ({"HTTP_PROXY": "http://p2:2", "REQUEST_METHOD": "GET"}, "http", None),
        ({"ALL_PROXY": "http://p3"}, "https", "p3:80 (all_proxy)"),
        ({"ALL_PROXY": "socks5://p3:1", "https_proxy": "http://p1:1"}, "https", "p1:1 (https_proxy)"),
        ({"http_proxy": "http://p1:1", "NO_PROXY": "a.test"}, "http", None),
    ],
)
def test_the_variables_are_read_as_other_programs_read_them(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], scheme: str, expected: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    proxy = FetchLimits.of(load_settings()).proxies.proxy_for(scheme, "a.test", 80)
    assert (proxy and proxy.shown) == (expected and f"the proxy {expected}")
