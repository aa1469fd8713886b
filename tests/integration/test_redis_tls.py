"""Redis with a password behind TLS: a real server, real certificates, real processes.

The embedded redis-server has no TLS, so a proxy in front of it speaks TLS, as stunnel does in many places.
"""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import pytest
import trustme

from jobs.ledger.ledger import Ledger
from jobs.settings import load_settings
from producer.exits import Exit
from tests import forked
from tests.eventually import eventually
from tests.integration.conftest import REAL, Site, StartSite
from tests.tcp_proxy import TcpProxy
from tools.embedded_redis import EmbeddedRedis

PASSWORD = "hunter2 p@ss/w:rd%?#"


@dataclass(frozen=True)
class Secured:
    """The port, and the file of the authority that signed the certificate of `localhost`."""

    port: int
    authority: Path

    def url(self, *, password: str = PASSWORD, host: str = "localhost", authority: Path | None = None) -> str:
        file = authority or self.authority
        return f"rediss://:{quote(password, safe='')}@{host}:{self.port}/0?ssl_ca_certs={quote(str(file))}"


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    authority = trustme.CA()
    file = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    with EmbeddedRedis(options=["--requirepass", PASSWORD]) as server:
        with TcpProxy(("127.0.0.1", server.port), tls=context) as proxy:
            yield Secured(proxy.port, file)


@pytest.fixture
def site(secured: Secured, start_site: StartSite) -> Site:
    ledger = Ledger.connect(load_settings(redis_url=secured.url()))
    return start_site(secured.url(), ledger)


def producer(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return forked.run("producer", *arguments, environment={"RENDER_REDIS_URL": url})


def test_producer_worker_and_health_work_over_tls_with_a_password(site: Site, picture_png: bytes) -> None:
    (site.folder / "a.png").write_bytes(picture_png)
    (site.folder / "jobs.csv").write_text("image,prompt,image_resolution,ddim_steps\na.png,p,64,2\na.png,q,64,3\n")
    worker = site.start(REAL, engine_dir="fake:", metrics_port=0, lease_seconds=5, heartbeat_seconds=1)
    csv, out = str(site.folder / "jobs.csv"), str(site.folder / "out")
    submitted = producer(site.redis_url, "submit", csv, "--batch", "b", "--output", out, "--wait")
    assert submitted.returncode == Exit.OK, submitted.stderr
    assert json.loads(submitted.stdout)["counts"]["done"] == 2
    (listens,) = site.events("health_listens")
    for probe in ("healthz", "readyz"):
        with urlopen(f"http://127.0.0.1:{listens['port']}/{probe}", timeout=5) as reply:
            assert reply.status == 200
    assert site.ledger.workers()
    assert site.events("heartbeat_failed") == []
    worker.terminate()
    assert worker.exit_code() == 0
    shown = producer(site.redis_url, "status", "b", "--json")
    assert json.loads(shown.stdout)["counts"]["done"] == 2
    assert "hunter2" not in worker.output + submitted.stdout + submitted.stderr + shown.stdout + shown.stderr


def wrong_urls(secured: Secured, folder: Path) -> dict[str, tuple[str, str]]:
    stranger = folder / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(stranger)
    return {
        "password": (secured.url(password="hunter2-wrong"), "refuses the user or the password"),
        "authority": (secured.url(authority=stranger), "certificate of Redis is not valid: "),
        "name": (secured.url(host="127.0.0.1"), "certificate of Redis is not valid: "),
    }


@pytest.mark.parametrize("wrong", ["password", "authority", "name"])
def test_what_does_not_fit_is_a_sentence_and_the_worker_goes_on_trying(
    secured: Secured, start_site: StartSite, tmp_path: Path, wrong: str
) -> None:
    url, words = wrong_urls(secured, tmp_path)[wrong]
    done = producer(url, "status", "b")
    assert done.returncode == Exit.NO_REDIS
    assert words in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr
    site = start_site(url, Ledger.connect(load_settings(redis_url=url)))
    worker = site.start()
    eventually(lambda: site.events("heartbeat_failed") or not worker.alive)
    eventually(lambda: "consumer: Cannot connect" in worker.output or not worker.alive)
    assert worker.alive, worker.output
    assert words in site.events("heartbeat_failed")[0]["error"]
    assert "hunter2" not in worker.output + done.stderr + done.stdout
    worker.terminate()
    assert worker.exit_code() == 0
