"""Headless Chromium, driven over a pipe by the DevTools protocol."""

import base64
import fcntl
import io
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TIMEOUT = 120.0  # seconds; WebGL is computed on the CPU here


def _pipe() -> tuple[int, int]:
    """A pipe whose descriptors are none that the browser is given."""
    ends = os.pipe()
    higher = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return higher[0], higher[1]


class Browser:
    """A page in a browser without a window."""

    def __init__(self, profile: Path, width: int = 800, height: int = 600):
        assert CHROMIUM is not None
        (to_browser, self._commands), (self._messages, from_browser) = _pipe(), _pipe()

        def connect() -> None:  # the protocol reads from descriptor 3 and writes to 4
            os.dup2(to_browser, 3)
            os.dup2(from_browser, 4)

        command = [
            CHROMIUM, "--headless=new", "--no-sandbox", "--remote-debugging-pipe", f"--user-data-dir={profile}",
            "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--hide-scrollbars",
            "--force-device-scale-factor=1", f"--window-size={width},{height}", "about:blank",
        ]  # fmt: skip
        keep = {"preexec_fn": connect, "close_fds": False, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, **keep)  # type: ignore[call-overload]
        os.close(to_browser)
        os.close(from_browser)
        self.errors: list[str] = []
        self._buffer, self._id, self._session = b"", 0, ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._commands)
        os.close(self._messages)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and wait for its result; messages of the page are collected meanwhile."""
        self._id += 1
        message = {"id": self._id, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + TIMEOUT
        while True:
            answer = self._receive(end)
            if answer.get("id") == self._id:
                assert "error" not in answer, answer
                return answer["result"]

    def _receive(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._messages], [], [], max(0.0, end - time.monotonic()))[0], "no answer"
            self._buffer += os.read(self._messages, 1 << 20)
        first, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(first)
        parameters = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(parameters["exceptionDetails"])[:400])
        if message.get("method") == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
            self.errors.append(json.dumps(parameters["args"])[:400])
        if message.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])
        return message

    def open(self, page: Path, address: str = "") -> None:
        """Open a page from the disk, afresh, and wait until all its pictures are loaded."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=page.absolute().as_uri() + (f"#{address}" if address else ""))
        end = time.monotonic() + TIMEOUT
        while self.evaluate("document.body && document.body.dataset.loaded") != "1":
            assert time.monotonic() < end, ["the page does not load", *self.errors]
            time.sleep(0.1)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    def key(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Drag with the left button pressed."""
        for kind, (x, y), buttons in (("mousePressed", start, 1), ("mouseMoved", end, 1), ("mouseReleased", end, 0)):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=buttons, clickCount=1)

    def screenshot(self, width: int, height: int) -> np.ndarray:
        """Pixels (height, width, 3) of the top left corner, after the next frame is drawn."""
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        data = self.call("Page.captureScreenshot", format="png", clip=clip)["data"]
        return iio.imread(io.BytesIO(base64.b64decode(data)))[..., :3]
