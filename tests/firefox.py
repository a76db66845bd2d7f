"""Firefox on a display in memory (Xvfb), driven by its Marionette protocol; without a display it has no WebGL."""

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
XVFB = shutil.which("Xvfb")
TIMEOUT = 120.0  # seconds; WebGL is computed on the CPU here
PREFERENCES = {
    "marionette.port": 0,  # any free one
    "webgl.force-enabled": True,
    "layout.css.devPixelsPerPx": "1.0",
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
}


class Firefox:
    """A page in Firefox.

    Args:
        profile: empty folder for the profile.
    """

    def __init__(self, profile: Path):
        assert FIREFOX is not None
        assert XVFB is not None
        ours, theirs = os.pipe()
        command = [XVFB, "-displayfd", str(theirs), "-screen", "0", "1280x1024x24", "-nolisten", "tcp"]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._display = subprocess.Popen(command, pass_fds=[theirs], **silent)  # type: ignore[call-overload]
        os.close(theirs)
        with os.fdopen(ours) as number:
            display = f":{number.readline().strip()}"
        lines = (f'user_pref("{name}", {json.dumps(value)});\n' for name, value in PREFERENCES.items())
        (profile / "user.js").write_text("".join(lines))
        command = [FIREFOX, "--marionette", "--no-remote", "--profile", str(profile), "about:blank"]
        environment = os.environ | {"DISPLAY": display, "LIBGL_ALWAYS_SOFTWARE": "1"}
        self._browser = subprocess.Popen(command, env=environment, **silent)  # type: ignore[call-overload]
        self._socket = socket.create_connection(("127.0.0.1", self._port(profile)), timeout=TIMEOUT)
        self._buffer, self._id = b"", 0
        self._receive()
        self.call("WebDriver:NewSession", capabilities={})

    def _port(self, profile: Path) -> int:
        end, written = time.monotonic() + TIMEOUT, profile / "MarionetteActivePort"
        while not (written.is_file() and written.read_text().strip()):
            assert self._browser.poll() is None, "Firefox has ended"
            assert time.monotonic() < end, "Firefox does not start"
            time.sleep(0.2)
        return int(written.read_text())

    def close(self) -> None:
        self._socket.close()
        for process in (self._browser, self._display):
            process.terminate()
            process.wait()

    def call(self, command: str, **parameters: Any) -> Any:
        """Run a command of the protocol and return its result."""
        self._id += 1
        message = json.dumps([0, self._id, command, parameters]).encode()
        self._socket.sendall(f"{len(message)}:".encode() + message)
        _, _, error, result = self._receive()
        assert error is None, error
        return result

    def _receive(self) -> Any:
        while b":" not in self._buffer:
            self._read()
        length, self._buffer = self._buffer.split(b":", 1)
        while len(self._buffer) < int(length):
            self._read()
        message, self._buffer = self._buffer[: int(length)], self._buffer[int(length) :]
        return json.loads(message)

    def _read(self) -> None:
        data = self._socket.recv(1 << 20)
        assert data, "Firefox has closed the connection"
        self._buffer += data

    def open(self, page: Path, address: str = "") -> None:
        """Open a page from the disk, afresh, and wait until all its pictures are loaded."""
        self.call("WebDriver:Navigate", url="about:blank")
        self.call("WebDriver:Navigate", url=page.absolute().as_uri() + (f"#{address}" if address else ""))
        end = time.monotonic() + TIMEOUT
        while self.evaluate("document.body.dataset.loaded") != "1":
            assert time.monotonic() < end, self.evaluate("document.body.innerText")
            time.sleep(0.2)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression; it sees the document, not what the page's program has declared."""
        return self.call("WebDriver:ExecuteScript", script=f"return {expression}", args=[])["value"]

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Drag with the left button pressed."""
        (x, y), (to_x, to_y) = start, end
        steps = [
            {"type": "pointerMove", "duration": 0, "x": x, "y": y}, {"type": "pointerDown", "button": 0},
            {"type": "pointerMove", "duration": 100, "x": to_x, "y": to_y}, {"type": "pointerUp", "button": 0},
        ]  # fmt: skip
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": steps}
        self.call("WebDriver:PerformActions", actions=[mouse])

    def screenshot(self, width: int, height: int) -> np.ndarray:
        """Pixels (height, width, 3) of the top left corner, after the next frame is drawn."""
        drawn = "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
        self.call("WebDriver:ExecuteAsyncScript", script=drawn, args=[])
        data = self.call("WebDriver:TakeScreenshot", full=False)["value"]
        return iio.imread(io.BytesIO(base64.b64decode(data)))[:height, :width, :3]
