# Apache-2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Make three versions of a program that stands for the engine, a lock file of each, and one for an image: make_wheels.py DIRECTORY

1.0 and 3.0 answer `/health` where the plan says. 2.0 ends as engines end: with a cause, and below it the complaints of what waited for it.
"""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path

SERVES = '''"""Answers every request."""
import http.server
import sys
import threading


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"VERSION")

    def log_message(self, *arguments):
        return


def main():
    if "--headless" in sys.argv:
        threading.Event().wait()
    value = {flag: sys.argv[sys.argv.index(flag) + 1] for flag in ("--host", "--port")}
    http.server.ThreadingHTTPServer((value["--host"], int(value["--port"])), Health).serve_forever()
'''
FAILS = '''"""Fails as engines do."""
import logging
import sys
import time


def main():
    logging.basicConfig(format="%(levelname)s %(asctime)s [core.py:1] %(message)s", datefmt="%m-%d %H:%M:%S")
    time.sleep(1)
    try:
        raise RuntimeError("drvGetDevNum failed: driver and firmware do not fit")
    except RuntimeError:
        logging.exception("EngineCore failed to start.")
    try:
        raise TimeoutError("waiting for the engine core")
    except TimeoutError:
        logging.exception("API server gives up.")
    sys.exit(1)
'''


def wheel(directory, version, text):
    """A wheel and its lock; it calls itself a build of a release that the plan knows."""
    release = f"0.32.0+{version}"
    path, folder = directory / f"vllm-{release}-py3-none-any.whl", f"vllm-{release}.dist-info"
    members = {
        "vllm_standin.py": text.replace("VERSION", version),
        f"{folder}/METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {release}\n",
        f"{folder}/WHEEL": "Wheel-Version: 1.0\nGenerator: lab\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{folder}/entry_points.txt": "[console_scripts]\nvllm = vllm_standin:main\n",
        f"{folder}/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(zipfile.ZipInfo(member, (2020, 1, 1, 0, 0, 0)), content)
    lock = f"vllm=={release} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"
    (directory / f"{version}.lock").write_text(lock, encoding="utf-8")


def main():
    """All versions."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for version, text in (("1.0", SERVES), ("2.0", FAILS), ("3.0", SERVES)):
        wheel(directory, version, text)
    program = directory / "environment" / "bin" / "vllm"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text("#!/usr/bin/python3\n" + SERVES.replace("VERSION", "image") + "\n\nmain()\n", encoding="utf-8")
    program.chmod(0o755)


if __name__ == "__main__":
    main()
