# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Headless Chromium, spoken to over its debugging pipe (Chrome DevTools Protocol): as much as the tests of the HTML report need.

    python3 tests/audit/browser.py PAGE.html PICTURE.png      takes a picture of a page
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROGRAM = "chromium-headless-shell"
PATIENCE = 600


class Browser:
    """One page in one browser. Use as a context manager; collects what the page asks of the network and says to the console."""

    def __init__(self, width=1280, height=1000):
        self.size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.requests, self.messages, self.events = [], [], []
        self._number, self._buffer = 0, b""

    def __enter__(self):
        self._stack = contextlib.ExitStack()
        profile = self._stack.enter_context(tempfile.TemporaryDirectory())
        low_commands, self._commands = os.pipe()
        self._answers, low_answers = os.pipe()
        # The protocol's pipe is file descriptor 3 for commands and 4 for answers.
        # Both come from above, so that neither takes the other's place.
        commands, answers = (fcntl.fcntl(low, fcntl.F_DUPFD, 10) for low in (low_commands, low_answers))
        script = f'exec "$0" "$@" 3<&{commands} 4>&{answers}'
        options = ["--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(["bash", "-c", script, PROGRAM, *options], pass_fds=(commands, answers), stdin=subprocess.DEVNULL,
                                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for descriptor in (low_commands, low_answers, commands, answers):
            os.close(descriptor)
        target = self.call("Target.createTarget", session=None, url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", session=None, targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime", "Audits"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", **self.size)
        return self

    def __exit__(self, *_error):
        with contextlib.suppress(ConnectionError, OSError):
            self.call("Browser.close", session=None)
        os.close(self._commands)
        self._process.wait(PATIENCE)
        os.close(self._answers)
        self._stack.close()

    def _receive(self, until):
        """The next message. TimeoutError at `until`, which is a monotonic time."""
        while b"\0" not in self._buffer:
            ready, _writable, _other = select.select([self._answers], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise TimeoutError("the browser does not answer")
            data = os.read(self._answers, 1 << 20)
            if not data:
                raise ConnectionError("the browser ended")
            self._buffer += data
        text, _separator, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)

    def _note(self, message):
        """Keep what the tests ask for."""
        method, values = message.get("method"), message.get("params", {})
        self.events.append(method)
        if method == "Network.requestWillBeSent":
            self.requests.append(values["request"]["url"])
        elif method in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Audits.issueAdded", "Page.javascriptDialogOpening"):
            self.messages.append(values)

    def call(self, method, session=True, **values):
        """A command's result. Raises RuntimeError with the browser's message."""
        self._number += 1
        number, message = self._number, {"id": self._number, "method": method, "params": values}
        if session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data):]
        until = time.monotonic() + PATIENCE
        while True:
            answer = self._receive(until)
            if answer.get("id") != number:
                self._note(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']['message']}")
            else:
                return answer["result"]

    def open(self, path):
        """Show a file, and wait until it is loaded."""
        self.requests, self.messages, self.events = [], [], []
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        until = time.monotonic() + PATIENCE
        while "Page.loadEventFired" not in self.events:
            self._note(self._receive(until))

    def wait(self, condition):
        """Take messages until a condition holds: those of the console come when they come."""
        until = time.monotonic() + PATIENCE
        while not condition():
            self._note(self._receive(until))

    def value(self, expression):
        """What an expression is in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def click(self, selector):
        """Press the mouse on the middle of an element, as a person would."""
        box = self.value(f"(e => {{ e.scrollIntoView(); const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})"
                         f"(document.querySelector({json.dumps(selector)}))")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def picture(self):
        """What is on the screen, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def printed(self):
        """The page on paper, as PDF."""
        return base64.b64decode(self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)["data"])


def main():
    """Take a picture."""
    with Browser() as browser:
        browser.open(sys.argv[1])
        Path(sys.argv[2]).write_bytes(browser.picture())


if __name__ == "__main__":
    main()
