"""A real browser that is offline: every request to elsewhere is blocked and listed."""

import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from shutil import which
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest

CHROMIUM = which("chromium")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt install chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]


@contextmanager
def open_page(width=1280, scheme="light", host="file:"):
    """A page that may fetch from `host` only, with the lists `outside` (requests to elsewhere) and `errors` (of its console)."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
        page.outside, page.errors = [], []

        def route(request):
            if request.request.url.startswith((host, host.replace("http", "ws"), "data:", "blob:")):
                return request.continue_()
            page.outside.append(request.request.url)
            return request.abort()

        page.route("**/*", route)
        page.on("console", lambda m: page.errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: page.errors.append(str(e)))
        yield page
        chromium.close()


@contextmanager
def serving(words, folder, address):
    """A server, as long as it is needed."""
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen([sys.executable, "-m", *words], cwd=folder, stdout=log, stderr=log)
        try:
            end = time.monotonic() + 60
            while time.monotonic() < end:
                assert server.poll() is None, (folder / "server.log").read_text()
                try:
                    urlopen(address, timeout=1).close()
                    break
                except HTTPError:
                    break
                except (URLError, OSError):
                    time.sleep(0.1)
            yield
        finally:
            server.terminate()
            server.wait(20)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
