"""Secrets planted in the input of a real worker and of every command appear only where they must.

They must be in the job's own message, in the queue and in the ledger's `jobs` hash until the job is done: a signed URL
is useless without its signature.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from PIL import Image

from jobs.ledger.ledger import Ledger
from jobs.ledger.message import celery_message, message_for
from jobs.settings import load_settings
from tests import forked
from tests.eventually import eventually
from tests.integration.conftest import REAL, Site, StartSite
from tests.jobs.rows import make_job
from tests.jobs.web_server import reply, serving
from tools.embedded_redis import EmbeddedRedis

PLANTED = "hunter2"  # in every secret of this test, and nowhere else
PASSWORD = "hunter2-redis-password"
KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAHUNTER2HUNTER200",
    "AWS_SECRET_ACCESS_KEY": "hunter2/aws+secret",
    "AWS_SESSION_TOKEN": "hunter2-session-token",
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
    "AWS_REGION": "us-east-1",
}
AWS = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAHUNTER2HUNTER200%2F2026&X-Amz-Signature=hunter2-signature"
# (URL after the server's address, error kind or None where it renders)
ROWS = [
    (f"/good.png?{AWS}&X-Amz-Security-Token=hunter2-token", None),
    (f"/gone.png?{AWS}", "source_not_found"),
    ("/forbidden.png?sig=hunter2-azure&se=2026", "source_forbidden"),
    ("/echo.png?sig=hunter2-echo", "source_forbidden"),  # the host repeats the URL
    ("/text.png?X-Goog-Signature=hunter2-google", "not_an_image"),
    ("/busy.png?token=hunter2-passing", "source_unavailable"),
    ("/odd.png?anything=hunter2-odd#hunter2-fragment", "source_not_found"),
    ("/away.png", "source_not_found"),  # redirected to a signed URL
    ("/private.png", "source_forbidden"),  # redirected to a private host with a password
]


@pytest.fixture
def site(start_site: StartSite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Site]:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    with EmbeddedRedis(options=["--requirepass", PASSWORD]) as server:
        url = server.url.replace("redis://", f"redis://default:{PASSWORD}@")
        yield start_site(url, Ledger.connect(load_settings(redis_url=url)))


@pytest.fixture
def web(picture_png: bytes) -> Iterator[str]:
    away = reply(302, headers={"Location": "/gone.png?Signature=hunter2-redirect&Key-Pair-Id=hunter2"})
    private = reply(302, headers={"Location": "http://hunter2:hunter2@localhost:1/a?x=hunter2"})
    answers = {
        "good.png": reply(200, picture_png),
        "forbidden.png": reply(403, b"hunter2 in the body"),
        "text.png": reply(200, b"<html>no"),
        "busy.png": reply(503),
        "away.png": away,
        "private.png": private,
    }

    def echo(handler) -> None:  # type: ignore[no-untyped-def]
        sent = handler.headers["Authorization"] or "Basic "
        password = base64.b64decode(sent.partition(" ")[2]).decode()
        said = f"<p>{sent} {password} {handler.path} {handler.path.partition('=')[2]} http://{password}@h{handler.path}"
        reply(403, said.encode(), headers={"Content-Type": "text/html"})(handler)

    answers["echo.png"] = echo

    def answer(handler) -> None:  # type: ignore[no-untyped-def]
        answers.get(handler.path.partition("?")[0].strip("/"), reply(404))(handler)

    with serving({}, otherwise=answer) as url:
        yield url.replace("http://", "http://user:hunter2-basic@")


def producer(site: Site, *arguments: str) -> str:
    """Both streams of a command."""
    variables = {
        "RENDER_REDIS_URL": site.redis_url,
        "RENDER_RECONCILE_SECONDS": "1",
        "RENDER_ALLOW_HOSTS": "127.0.0.1",
    }
    done = forked.run("producer", *arguments, environment=variables, folder=site.folder)
    return done.stdout + done.stderr


def submit(site: Site, web: str) -> str:
    rows = [f"{web}{path},a house,64,2" for path, _ in ROWS] + ["s3://bucket/a.png,a house,64,2"]
    # One that renders, one that fails: only the result of the first has its parameters in a picture.
    rows[:2] = [f"{row},{web}/good.png?sig=hunter2-control,jpeg" for row in rows[:2]]
    header = "image,prompt,image_resolution,ddim_steps,control_image,format"
    (site.folder / "jobs.csv").write_text("\n".join([header, *rows]) + "\n")
    return producer(site, "submit", "jobs.csv", "--batch", "b", "--output", str(site.folder / "out"), "--wait")


def push_garbage(site: Site, web: str) -> None:
    """What is no job, and says secrets all the same."""
    job = make_job(99, image=f"{web}/a.png?{AWS}")
    broken = job.model_dump_json().replace('"version":1', '"version":0,"password":"hunter2-key"')
    site.ledger.client.lpush(
        "render",
        "not json redis://:hunter2@h",
        json.dumps({"body": f"{web}/?sig=hunter2", "headers": {"token": "hunter2"}}),
        celery_message(job, queue="render").replace('"task": "render"', '"task": "nobody.knows"'),
        message_for("9" * 20, broken, queue="render"),
        message_for("8" * 20, broken.replace('"version":0', '"version":7'), queue="render"),
    )


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
def test_planted_secrets_come_out_nowhere(site: Site, web: str, level: str) -> None:
    worker = site.start(
        REAL,
        engine_dir="fake:",
        allow_hosts="127.0.0.1",
        log_level=level,
        metrics_port=0,
        max_attempts=2,
        retry_attempts=2,
        lease_seconds=10,
    )
    push_garbage(site, web)
    said = {"submit": submit(site, web)}
    # Some of the rows are tried twice: half a minute where nothing else runs.
    eventually(lambda: site.ledger.counts("b").finished == len(ROWS) + 1, seconds=180, what="every row ended")
    assert_each_row_ended_as_expected(site)
    said |= {page: site.get(f"/{page}") for page in ("metrics", "healthz", "readyz")}
    said |= {
        "status": producer(site, "status") + producer(site, "status", "b", "--json"),
        "results": producer(site, "results", "b") + producer(site, "results", "b", "--format", "csv"),
        "gallery": producer(site, "gallery", "b", "--out", "gallery"),
        "bad row": bad_rows(site, web),
    }
    eventually(lambda: site.events("message_is_newer"))
    worker.terminate()
    worker.exit_code()
    # Cancelled while no worker is there: the ledger's own record of a job that was never read.
    said["again"] = producer(site, "retry", "b") + producer(site, "cancel", "b") + producer(site, "reconcile")
    assert site.ledger.counts("b").cancelled == len(ROWS)
    said["cancelled"] = producer(site, "results", "b")
    said["worker"] = worker.output
    assert_clean(said)
    assert_clean({str(path): readable(path) for path in (site.folder / "out").rglob("*") if path.is_file()})
    assert_clean({str(path): path.read_bytes().decode("latin-1") for path in (site.folder / "gallery").rglob("*.html")})
    assert_clean(ledger_without_jobs(site.ledger.client))
    assert site.events("bad_message")
    assert site.events("garbage_in_queue")


def test_the_job_itself_keeps_its_signature_until_it_is_done(site: Site, web: str) -> None:
    """docs/operations.md says so: who reads Redis reads signed URLs."""
    submit_one = f"image,prompt,image_resolution,ddim_steps\n{web}{ROWS[0][0]},a,64,2\n"
    (site.folder / "jobs.csv").write_text(submit_one)
    producer(site, "submit", "jobs.csv", "--batch", "b", "--output", str(site.folder / "out"))
    assert "hunter2-signature" in str(site.ledger.client.hgetall("render:batch:b:jobs"))
    site.start(REAL, engine_dir="fake:", allow_hosts="127.0.0.1", lease_seconds=10)
    site.wait_until_done(1)
    eventually(lambda: site.held == 0)
    assert "hunter2" not in str(everything(site.ledger.client))


def bad_rows(site: Site, web: str) -> str:
    """What the check says of rows whose picture it refuses."""
    refused = [
        f"ftp://u:hunter2@h/a?x={PLANTED}",
        f"http://u:pla/nted@h:{PLANTED}/",
        f"{web}/{'x' * 5000}?{AWS}",
        "http://[",
    ]
    (site.folder / "bad.csv").write_text("image,prompt\n" + "".join(f"{uri},p\n" for uri in refused))
    return producer(site, "submit", "bad.csv", "--batch", "bad")


def assert_each_row_ended_as_expected(site: Site) -> None:
    kinds = {result.row: result.error_kind for result in site.ledger.results("b")}
    expected = {row: kind for row, (_, kind) in enumerate(ROWS, start=1)}
    assert kinds == expected | {len(ROWS) + 1: "source_unavailable"}


def assert_clean(texts: dict[str, str]) -> None:
    for where, text in texts.items():
        assert text or where.endswith(".part"), f"{where} says nothing, which proves nothing"
        found = text.lower().find(PLANTED)
        assert found < 0, f"{where}: ...{text[max(0, found - 300) : found + 60]!r}"


def readable(path: Path) -> str:
    """A file's bytes and, of pictures, the text chunks, which may be compressed, and what is in UTF-16."""
    data = path.read_bytes()
    texts = str(Image.open(io.BytesIO(data)).info) if path.suffix == ".png" else ""
    return data.decode("latin-1") + data.replace(b"\0", b"").decode("latin-1") + texts


def ledger_without_jobs(client: redis.Redis) -> dict[str, str]:
    """All but the jobs themselves: in their hash, and in the queue, where those cancelled still stand."""
    return {key: value for key, value in everything(client).items() if key != "render" and not key.endswith(":jobs")}


def everything(client: redis.Redis) -> dict[str, str]:
    """Every key of the database with its value."""
    read = {
        "string": client.get,
        "hash": client.hgetall,
        "set": client.smembers,
        "list": lambda key: client.lrange(key, 0, -1),
        "zset": lambda key: client.zrange(key, 0, -1),
    }
    return {str(key): f"{key!r} {read[str(client.type(key))](key)!r}" for key in client.scan_iter()}
