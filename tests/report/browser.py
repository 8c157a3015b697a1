"""A headless Chromium, driven through the DevTools protocol over a pipe: no port, no driver, no other package."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 120.0  # for an answer, on a busy machine


def find_browser() -> str | None:
    """The first Chromium of this machine."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


@dataclass
class Visit:
    """What a page did while it was open: addresses it asked for, errors it told, answers to what it was asked."""

    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Browser:
    """One browser with one page, as a context manager. profile: an empty folder for what it keeps."""

    def __init__(self, profile: Path) -> None:
        self._profile, self._ids, self._session = profile, itertools.count(1), ""
        self._buffer = b""
        self.visit = Visit()
        self._events: list[str] = []

    def __enter__(self) -> Browser:
        program = find_browser()
        assert program is not None
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()

        def as_three_and_four() -> None:  # where the browser looks for its pipe
            first, second = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(first, 3)
            os.dup2(second, 4)

        words = [program, "--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu",
                 "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
                 "--hide-scrollbars", "--disable-dev-shm-usage", f"--user-data-dir={self._profile}",
                 "about:blank"]  # fmt: skip
        self._process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, close_fds=False,
            preexec_fn=as_three_and_four, start_new_session=True,  # noqa: PLW1509  it duplicates files, and no more
        )  # fmt: skip
        os.close(theirs_in)
        os.close(theirs_out)
        pages = self.call("Target.getTargets")["targetInfos"]
        target = next(page["targetId"] for page in pages if page["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def look(self, width: int, height: int, dark: bool = False, scale: float = 1) -> None:
        """A window of so many CSS pixels, each `scale` of the screen's; dark: which colours the page is asked for."""
        screen = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, address: str) -> Visit:
        """Go there, and wait until it is loaded: everything that it asked for has come or failed."""
        self.visit = Visit()
        self._events.clear()
        self.call("Page.navigate", url=address)
        self._wait_for("Page.loadEventFired")
        return self.visit

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """What is in the window, or the whole page, as a PNG."""
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(picture["data"]))

    def call(self, method: str, **parameters: Any) -> Any:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        for answer in self._answers():
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
        raise AssertionError("the browser has ended")

    def settle(self, seconds: float) -> None:
        """Let the page go on for a while."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.evaluate("new Promise(done => setTimeout(done, 100))")

    def _wait_for(self, event: str) -> None:
        answers = self._answers()
        while event not in self._events:
            next(answers)

    def _answers(self) -> Iterator[dict[str, Any]]:
        """Messages as they come; events are noted on the way."""
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            while b"\0" not in self._buffer:
                got = os.read(self._in, 2**20)
                if not got:
                    return
                self._buffer += got
            line, _, self._buffer = self._buffer.partition(b"\0")
            message = json.loads(line)
            self._note(message)
            yield message
        raise TimeoutError("the browser does not answer")

    def _note(self, message: dict[str, Any]) -> None:
        values = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.visit.requests.append(values["request"]["url"])
            case "Runtime.exceptionThrown":
                self.visit.errors.append(str(values["exceptionDetails"].get("text")))
            case "Runtime.consoleAPICalled" if values["type"] in ("error", "assert"):
                self.visit.errors.append(str(values["args"]))
            case "Log.entryAdded" if values["entry"]["level"] == "error":
                self.visit.errors.append(f"{values['entry']['text']} {values['entry'].get('url', '')}")
            case str(method):
                self._events.append(method)
            case _:
                pass
