"""Names and numbers of hosts: resolved once, and only the public internet's are left."""

from __future__ import annotations

import socket

import pytest

from jobs.errors import RenderError, SourceForbidden, SourceNotFound, SourceUnavailable
from jobs.storage.addresses import checked_addresses, is_global
from jobs.storage.http import FetchLimits, HttpStore
from tests.jobs.resolver import Resolver


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "LocalHost",
        "localhost.",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "169.254.169.254",
        "10.1.2.3",
        "100.64.0.1",
    ],
)
def test_a_private_host_is_refused_in_whatever_way_it_is_written(host: str) -> None:
    with pytest.raises((SourceForbidden, SourceNotFound), match=r"RENDER_ALLOW_HOSTS|cannot be resolved"):
        HttpStore(FetchLimits()).read(f"http://{host}:1/a")


def test_one_private_address_among_public_ones_refuses_the_host(resolver: Resolver) -> None:
    resolver.answers["mixed.test"] = [["93.184.216.34", "2606:2800:220:1::1", "192.168.0.1"]]
    with pytest.raises(SourceForbidden, match=r"192\.168\.0\.1"):
        checked_addresses("mixed.test", 80, allow_hosts=())


def test_a_public_host_keeps_all_its_addresses_for_connecting(resolver: Resolver) -> None:
    resolver.answers["public.test"] = [["2606:2800:220:1::1", "93.184.216.34"]]
    found = checked_addresses("public.test", 443, allow_hosts=())
    assert [address.text for address in found] == ["2606:2800:220:1::1", "93.184.216.34"]
    assert found[1].target == ("93.184.216.34", 443)


@pytest.mark.parametrize(
    ("number", "error", "fault"),
    [(socket.EAI_NONAME, SourceNotFound, "worker"), (socket.EAI_AGAIN, SourceUnavailable, "host")],
)
def test_a_name_that_is_not_found_is_left_to_other_workers_and_a_resolver_that_is_away_is_asked_again(
    resolver: Resolver, number: int, error: type[RenderError], fault: str
) -> None:
    resolver.answers["nowhere.test"] = [socket.gaierror(number, "said the resolver")]
    with pytest.raises(error, match=r"nowhere\.test") as caught:
        checked_addresses("nowhere.test", 80, allow_hosts=())
    assert (caught.value.fault, caught.value.scope, caught.value.unfit) == (fault, "machine", False)


@pytest.mark.parametrize(
    "url",
    [
        "http://a..b/",
        f"http://{'a' * 70}.test/",
        "http://h:99999/",
        "http://127%2e0%2e0%2e1/",
        "http://a b/",
        "http://u\ud800:p@h/",
        "http://h/\ud800",
    ],
)
def test_what_is_no_host_is_refused(url: str) -> None:
    with pytest.raises(SourceForbidden):
        HttpStore(FetchLimits()).read(url)


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
        ("fec0::1", False),
        ("::7f00:1", False),
        ("::ffff:0:7f00:1", False),
        ("64:ff9b:1::7f00:1", False),
        ("3fff::1", False),
        ("2001:db8::1", False),
        ("ff0e::1", False),
        ("192.0.0.8", False),
        ("198.18.0.1", False),
        ("203.0.113.9", False),
        ("255.255.255.255", False),
    ],
)
def test_only_addresses_of_the_public_internet_are_global(address: str, expected: bool) -> None:
    assert is_global(address) is expected
