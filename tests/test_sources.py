"""What a notebook cannot show: broken connections, damaged files, an interrupted download."""

import hashlib
import http.server
import os
import threading
from dataclasses import replace

import pooch
import pytest

from nas_nb.core import InputError
from nas_nb.data import sources
from nas_nb.data.sources import SOURCES, DataFile, Source, fetch_file, file_checksum, load_task

CONTENT = b"0123456789" * 5000
PAGES = {
    "/whole": (len(CONTENT), CONTENT),
    "/broken": (len(CONTENT), CONTENT[:20_000]),  # promises all, closes after less than half
    "/short": (20_000, CONTENT[:20_000]),  # a complete answer with a truncated file
    "/other": (len(CONTENT), CONTENT[::-1]),
    "/page": (21, b"<html>Log in</html>\n\n"),
}


class Publisher(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path not in PAGES:
            self.send_error(404)
            return
        n_bytes, content = PAGES[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(n_bytes))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Publisher)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def project(tmp_path, monkeypatch):
    "An empty project without NAS_NB_DATA and without proxies."
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NAS_NB_DATA", raising=False)
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    (tmp_path / "settings.ini").touch()
    return tmp_path


def publish(monkeypatch, url):
    checksum = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
    file = DataFile("toy.bin", checksum, len(CONTENT), url)
    toy = Source("toy", "Toy", url, "CC0", "", "toys:load", folder="toy", files=(file,))
    monkeypatch.setitem(SOURCES, "toy", toy)


def files_in(folder):
    return sorted(p.name for p in (folder / "data").rglob("*") if p.is_file())


def test_download_arrives_and_is_announced(address, project, monkeypatch, capsys):
    publish(monkeypatch, address + "/whole")
    path = fetch_file("toy")
    assert path == project / "data" / "toy" / "toy.bin"
    assert path.read_bytes() == CONTENT
    assert files_in(project) == ["toy.bin"]
    said = capsys.readouterr()
    assert said.out == ""
    assert f"Toy: 0.1 MB from {address}/whole (CC0)" in said.err


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("/gone", "HTTP 404 Not Found"),
        ("/broken", "the connection broke"),
        ("/short", "it ends after 20,000 of 50,000 bytes"),
        ("/other", "its contents differ; expected sha256:"),
        ("/page", "it is a web page"),
    ],
)
def test_failed_download_leaves_nothing(address, project, monkeypatch, page, sentence):
    publish(monkeypatch, address + page)
    with pytest.raises(InputError) as caught:
        fetch_file("toy", progress=False)
    message = str(caught.value)
    assert sentence in message
    assert "try again later, or put the file at" in message
    assert "\n" not in message
    assert ".part" not in message
    assert files_in(project) == []


def test_no_server(project, monkeypatch):
    publish(monkeypatch, "http://127.0.0.1:9/toy.bin")
    with pytest.raises(InputError, match="no connection"):
        fetch_file("toy", progress=False)
    assert files_in(project) == []


def test_interrupted_by_the_user(address, project, monkeypatch):
    def interrupted(self, url, output_file, _):
        with open(output_file, "wb") as stream:
            stream.write(CONTENT[:100])
        raise KeyboardInterrupt

    publish(monkeypatch, address + "/whole")
    with monkeypatch.context() as patched:
        patched.setattr(pooch.HTTPDownloader, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch_file("toy", progress=False)
    assert files_in(project) == []
    assert fetch_file("toy", progress=False).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (CONTENT[:-1], "it ends after 49,999 of 50,000 bytes"),
        (b"", "it ends after 0 of 50,000 bytes"),
        (b"\n <!DOCTYPE HTML><p>Moved", "it is a web page"),
        (CONTENT + b"x", "its contents differ"),
    ],
)
def test_damaged_local_file_is_reported_and_kept(project, monkeypatch, content, sentence):
    publish(monkeypatch, "http://127.0.0.1:9/toy.bin")
    path = project / "data" / "toy" / "toy.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        fetch_file("toy", progress=False)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_nas_nb_data_comes_first(project, monkeypatch, tmp_path_factory):
    publish(monkeypatch, "http://127.0.0.1:9/toy.bin")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for root in (elsewhere, project / "data"):
        (root / "toy").mkdir(parents=True)
        (root / "toy" / "toy.bin").write_bytes(CONTENT)
    assert fetch_file("toy").is_relative_to(project)
    monkeypatch.setenv("NAS_NB_DATA", str(elsewhere))
    assert fetch_file("toy").is_relative_to(elsewhere)
    monkeypatch.setenv("NAS_NB_DATA", str(elsewhere / "absent"))
    with pytest.raises(InputError, match="is no folder"):
        fetch_file("toy")


def test_project_folder_is_found_from_below(project, monkeypatch):
    below = project / "nbs" / "data"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert sources.data_folders() == [project / "data"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("graphene", b"# 29791 Non Detached"), ("mnist", b"\x1f\x8b"), ("cifar10", b"<html></html>")],
)
def test_every_loader_refuses_a_damaged_file(project, name, content):
    source = SOURCES[name]
    path = project / "data" / source.folder / source.file().filename
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(InputError, match="not the published file"):
        load_task(name)


def test_copy_that_nobody_offers(project):
    with pytest.raises(InputError, match="nobody offers for download: put it at"):
        load_task("mnist", copy="npz")


def test_checksum_kinds(tmp_path):
    path = tmp_path / "empty"
    path.touch()
    assert file_checksum(path, "md5") == "md5:d41d8cd98f00b204e9800998ecf8427e"
    assert file_checksum(path).startswith("sha256:e3b0c44298fc1c14")
    file = replace(SOURCES["graphene"].file(), checksum=file_checksum(path, "md5"))
    assert sources.verify_file(path, file) == path
