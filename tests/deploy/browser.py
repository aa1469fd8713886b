"""A real Chromium without a window, driven over its debugging pipe (the DevTools protocol): no driver is needed."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from tests.deploy.tools import missing
from tests.eventually import eventually

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--no-first-run", "--no-proxy-server", "--disable-background-networking", "--disable-extensions"),
    *("--remote-debugging-pipe", "--force-prefers-reduced-motion"),
)


def chromium() -> str:
    """The browser's path. Skips at a desk without one; fails in CI."""
    return next(filter(None, map(shutil.which, NAMES)), None) or missing("no Chromium: apt-get install chromium")


def _high(ends: tuple[int, int]) -> tuple[int, int]:
    """The same pipe under numbers above 9: the shell that passes one end on as 3 or 4 must not overwrite another."""
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high[0], high[1]


class Browser:
    """One browser with one page. `problems` has its scripts' errors, and what the page's security policy refused."""

    def __init__(self, folder: Path) -> None:
        """`folder` takes its profile and its log."""
        (to_it, ours), (theirs, from_it) = _high(os.pipe()), _high(os.pipe())
        command = [chromium(), *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        with (folder / "browser.log").open("wb") as log:
            # The browser reads commands from descriptor 3 and answers on 4.
            self._process = subprocess.Popen(
                ["bash", "-c", f'exec "$@" 3<&{to_it} 4>&{from_it}', "bash", *command],
                pass_fds=(to_it, from_it), stdout=log, stderr=log, env={**os.environ, "HOME": str(folder)},
            )  # fmt: skip
        os.close(to_it)
        os.close(from_it)
        self._send, self._receive = os.fdopen(ours, "wb"), os.fdopen(theirs, "rb")
        self._number = 0
        self._unread = b""
        self.problems: list[str] = []
        self._session: str | None = None
        eventually(self._pages, what="the browser has a page")
        attached = self.call("Target.attachToTarget", targetId=self._pages()[0], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        self._send.write(json.dumps(message).encode() + b"\0")
        self._send.flush()
        while True:
            reply = self._next()
            if reply.get("id") == self._number:
                if "error" in reply and method == "Runtime.evaluate":
                    return {"result": {}}  # the page was replaced meanwhile
                assert "error" not in reply, (method, reply["error"])
                return dict(reply["result"])
            self._note(reply)

    def _pages(self) -> list[str]:
        """The ids of its pages. The first comes a moment after the browser answers commands."""
        return [each["targetId"] for each in self.call("Target.getTargets")["targetInfos"] if each["type"] == "page"]

    def show(self, url: str, *, width: int, height: int = 900, scheme: Literal["light", "dark"] = "light") -> None:
        """Load a page at a size and in a colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=url)
        there = f"location.href === {json.dumps(url)} && document.readyState === 'complete'"
        eventually(lambda: self._is_true(there), seconds=120, what=url)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; of a promise, its result."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, (expression, result["exceptionDetails"])
        return result["result"].get("value")

    def _is_true(self, expression: str) -> bool:
        """False also where the page is just being replaced by another."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return result["result"].get("value") is True

    def key(self, name: str, code: int, *, text: str = "") -> None:
        """Press a key: Tab (9), Enter (13, which writes a carriage return), Escape (27)."""
        down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        for part in (down, {"type": "keyUp"}):
            self.call("Input.dispatchKeyEvent", **part, key=name, code=name, windowsVirtualKeyCode=code)

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            data = os.read(self._receive.fileno(), 2**16)
            assert data, "the browser has ended"
            self._unread += data
        text, _, self._unread = self._unread.partition(b"\0")
        return dict(json.loads(text))

    def _note(self, event: dict[str, Any]) -> None:
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            if parameters["entry"]["source"] == "network":  # an answer such as 404, which the page may ask for
                return
            self.problems.append(json.dumps(parameters["entry"]))

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._send.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._receive.close()
