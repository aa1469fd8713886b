"""The page of `producer keep` in a real Chromium: it follows a batch, escapes what it shows, and fits small screens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from jobs.ledger.keys import batch_key
from jobs.ledger.ledger import Ledger
from jobs.ledger.redis_client import connected
from producer.cli import app
from tests.deploy.browser import Browser
from tests.eventually import eventually
from tests.producer.keep.process import KeepProcess
from tools.embedded_redis import EmbeddedRedis
from tools.worker_process import WorkerProcess

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(600)]

HOSTILE = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"
HOSTILE_FILE = HOSTILE.replace("/", "") + ".png"
JOBS = 30
FAILING = 3


class Site:
    """Redis, `producer keep`, and what was submitted."""

    def __init__(self, folder: Path, redis: EmbeddedRedis, keep: KeepProcess) -> None:
        self.folder = folder
        self.keep = keep
        self.redis = redis
        self.ledger = Ledger(connected(redis.url))
        self.environment = environment(folder, redis)

    def submit(self, batch: str, rows: list[tuple[str, str]]) -> None:
        """Pictures and prompts."""
        text = "".join(f'"{image}","{prompt}",256,5\n' for image, prompt in rows)
        (self.folder / f"{batch}.csv").write_text(f"image,prompt,image_resolution,ddim_steps\n{text}")
        ran = CliRunner().invoke(
            app, ["submit", str(self.folder / f"{batch}.csv")], env=self.environment, catch_exceptions=False
        )
        assert ran.exit_code == 0, ran.output

    def worker(self, name: str, *, step_ms: int = 150) -> WorkerProcess:
        values = self.environment | {"RENDER_ENGINE_DIR": engines(step_ms)}
        return WorkerProcess(environment=values, log=self.folder / f"{name}.log", name=name)


def engines(step_ms: int) -> str:
    return f"fake:step_ms={step_ms},max_batch=1"


def environment(folder: Path, redis: EmbeddedRedis) -> dict[str, str]:
    return {
        "RENDER_REDIS_URL": redis.url,
        "RENDER_ENGINE_DIR": engines(150),
        "RENDER_OUTPUT_URI": str(folder / "renders"),
        "RENDER_ALLOW_FOLDERS": str(folder),
        "RENDER_JOBS_IN_FLIGHT": "4",
        "RENDER_HEARTBEAT_SECONDS": "0.5",
    }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    for number in range(3):
        Image.effect_noise((320, 256), 60 + 40 * number).save(folder / f"{number}.png")
    with EmbeddedRedis() as redis:
        keep = KeepProcess(folder / "keep.log", environment=environment(folder, redis))
        with keep.until_ready():
            yield Site(folder, redis, keep)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path) as browser:
        yield browser
        assert browser.problems == []


def text(browser: Browser, selector: str) -> str:
    """The text of an element, '' where there is none or it is hidden."""
    shown = f"(e => e && e.checkVisibility() ? e.innerText : '')(document.querySelector({json.dumps(selector)}))"
    return str(browser.evaluate(shown))


def until(browser: Browser, expression: str, *, seconds: float = 120) -> Any:
    """Wait until an expression is true in the page."""
    eventually(lambda: browser.evaluate(expression), seconds=seconds, what=expression)
    return browser.evaluate(expression)


def pictures(browser: Browser) -> int:
    """How many pictures of the list are loaded."""
    loaded = "[...document.querySelectorAll('#picture-list img')].filter(i => i.complete && i.naturalWidth > 0).length"
    return int(browser.evaluate(loaded))


def assert_fits(browser: Browser) -> None:
    """Nothing is wider than the window."""
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    wide = (
        "[...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && !e.closest('.skip') && "
        "e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 200))"
    )
    assert browser.evaluate(wide) == []


def test_an_empty_redis_says_what_to_do(site: Site, browser: Browser) -> None:
    browser.show(site.keep.url, width=400)
    until(browser, "document.querySelector('#status-text').textContent === 'Live'")
    assert "producer submit jobs.csv" in text(browser, "#no-batch")
    assert "celery -A worker worker" in text(browser, "#no-worker")
    assert (text(browser, "#label-workers"), text(browser, "#label-waiting")) == ("workers", "jobs waiting")
    assert text(browser, "#chosen") == ""
    assert_fits(browser)


@pytest.fixture(scope="module")
def followed(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Browser], None]:
    """Renders a batch while a browser looks, once for the module."""
    site.submit("nightly", [(f"{number % 3}.png", f"a house, number {number}") for number in range(JOBS)])

    def follow(browser: Browser) -> None:
        browser.show(site.keep.url, width=1300)
        until(browser, "document.querySelectorAll('#batch-list li').length === 1")
        browser.evaluate("window.notReloaded = true")
        before = text(browser, "#batch-list .percent")
        with site.worker("gpu", step_ms=400):  # a minute, in which a slow machine can look four times
            until(browser, "document.querySelectorAll('#worker-list li').length === 1")
            assert text(browser, "#label-workers") == "worker"
            until(browser, "document.querySelectorAll('#picture-list img').length >= 2")
            between = browser.evaluate("document.querySelectorAll('#picture-list li').length")
            eventually(lambda: pictures(browser) > between, seconds=120, what="newer pictures")
            assert "nightly" in until(browser, "document.querySelector('#worker-list .in-flight').textContent")
            until(browser, "/pictures.s/.test(document.querySelector('#batch-list .pace').textContent)")
            assert text(browser, "#figure-rate") != "–"
            until(browser, "document.querySelector('#batch-list .percent').textContent === 'done'", seconds=300)
        assert before == "0 %"
        assert browser.evaluate("window.notReloaded") is True
        eventually(lambda: pictures(browser) == JOBS, seconds=120, what="all pictures")

    return follow


def test_it_follows_a_batch_without_being_loaded_again(
    site: Site, browser: Browser, followed: Callable[[Browser], None]
) -> None:
    followed(browser)
    assert text(browser, "#chosen-title") == "nightly"
    assert "30" in text(browser, "#chosen-counts .done")
    first = browser.evaluate("document.querySelector('#picture-list img').alt")
    assert first.startswith("row ")
    assert_fits(browser)


@pytest.fixture(scope="module")
def hostile(site: Site) -> None:
    """A batch with failures, whose prompts and errors would be scripts if they were not escaped."""
    rows = [(f"{number}.png", HOSTILE) for number in range(3)]
    rows += [(HOSTILE_FILE, f"row {number}") for number in range(FAILING)]
    (site.folder / HOSTILE_FILE).write_text("no picture")
    site.submit("hostile", rows)
    (site.folder / HOSTILE_FILE).unlink()  # now the error names it
    with site.worker("other"):
        eventually(lambda: site.ledger.counts("hostile").finished == len(rows), seconds=180)
    assert site.ledger.counts("hostile").failed == FAILING


@pytest.mark.parametrize("width", [400, 1300])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_failures_and_hostile_texts(
    site: Site, browser: Browser, hostile: None, width: int, scheme: Any, tmp_path: Path
) -> None:
    browser.show(f"{site.keep.url}#batch=hostile", width=width, scheme=scheme)
    eventually(lambda: pictures(browser) == 3, seconds=120, what="three pictures")
    assert HOSTILE in text(browser, "#picture-list")
    assert "3 jobs failed" in text(browser, "#chosen-failures")
    assert "source_not_found: 3 jobs" in text(browser, "#chosen-failures")
    assert HOSTILE_FILE in text(browser, "#chosen-failures")
    assert browser.evaluate("document.querySelectorAll('script').length") == 1
    assert browser.evaluate("document.querySelectorAll('[onerror], [onclick], iframe').length") == 0
    assert "owned" not in browser.evaluate("document.title")
    dark = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(19, 20, 22)") == (scheme == "dark")
    assert_fits(browser)
    browser.screenshot(tmp_path / f"hostile-{width}-{scheme}.png")


def test_a_batch_that_is_damaged_shows_the_rest(site: Site, browser: Browser, hostile: None) -> None:
    failures = batch_key("hostile", "failures")
    kept = site.ledger.client.lrange(failures, 0, -1)
    site.ledger.client.delete(failures)
    site.ledger.client.set(failures, "text")
    try:
        browser.show(f"{site.keep.url}?damaged#batch=hostile", width=400)
        until(browser, "document.querySelector('#chosen-state').textContent.includes('WRONGTYPE')")
        eventually(lambda: pictures(browser) == 3, seconds=120, what="three pictures")
        assert text(browser, "#chosen-failures") == ""
        assert_fits(browser)
    finally:
        site.ledger.client.delete(failures)
        site.ledger.client.rpush(failures, *kept)


def test_a_batch_that_cannot_be_read_does_not_look_like_the_one_before(
    site: Site, browser: Browser, hostile: None
) -> None:
    browser.show(f"{site.keep.url}?busy#batch=hostile", width=1300)
    eventually(lambda: pictures(browser) == 3, seconds=120, what="three pictures")
    browser.evaluate(
        "(real => { window.fetch = (path, ...rest) => path.startsWith('api/batches/') ? "
        "Promise.resolve(new Response('ask again', { status: 503 })) : real(path, ...rest); })(window.fetch)"
    )
    browser.evaluate("poll()")
    assert text(browser, "#chosen-title") == "hostile"
    assert pictures(browser) == 3  # what is known of the batch stays
    browser.evaluate("location.hash = '#batch=other'")
    until(browser, "document.querySelector('#chosen-title').textContent === 'other'")
    assert text(browser, "#chosen-state") == "ask again"
    assert pictures(browser) == 0
    assert browser.evaluate("document.title") == "other"


def test_keys_alone_choose_a_batch_and_open_a_picture(site: Site, browser: Browser, hostile: None) -> None:
    browser.show(f"{site.keep.url}?keys#batch=nothing", width=1300)
    until(browser, "document.querySelector('#chosen-state').textContent === 'there is no batch of this name'")
    until(browser, "[...document.querySelectorAll('#batch-list a')].some(a => a.hash === '#batch=hostile')")
    browser.evaluate("document.querySelector('#batch-list a[href$=hostile]').focus()")
    browser.key("Enter", 13, text="\r")
    eventually(lambda: pictures(browser) == 3, seconds=120, what="the chosen batch's pictures")
    assert text(browser, "#batch-list a[aria-current]").startswith("hostile")
    browser.evaluate("document.querySelector('#picture-list button').focus()")
    browser.key("Enter", 13, text="\r")
    until(browser, "document.querySelector('#viewer').open")
    assert HOSTILE in text(browser, "#viewer-prompt")
    browser.key("Escape", 27)
    until(browser, "!document.querySelector('#viewer').open")


def test_everything_has_a_name_for_those_who_cannot_see_it(site: Site, browser: Browser, hostile: None) -> None:
    browser.show(f"{site.keep.url}?names#batch=hostile", width=1300)
    eventually(lambda: pictures(browser) == 3, seconds=120, what="three pictures")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    wanted = {"button", "link", "image", "progressbar", "list", "dialog"}
    unnamed = [
        node["role"]["value"]
        for node in nodes
        if not node.get("ignored")
        and node["role"]["value"] in wanted - {"list"}
        and not node.get("name", {}).get("value")
    ]
    assert unnamed == []
    assert {node["role"]["value"] for node in nodes} >= wanted - {"dialog"}


def test_redis_away_is_said_and_what_was_seen_stays(site: Site, browser: Browser, hostile: None) -> None:
    browser.show(f"{site.keep.url}?away#batch=hostile", width=400)
    eventually(lambda: pictures(browser) == 3, seconds=120, what="three pictures")
    site.redis.kill()
    until(browser, "document.querySelector('#status-text').textContent === 'Redis is away'")
    assert "Redis does not answer" in text(browser, "#trouble")
    assert pictures(browser) == 3
    assert_fits(browser)
    site.redis.start()
    until(browser, "document.querySelector('#status-text').textContent === 'Live'")
    assert text(browser, "#trouble") == ""
