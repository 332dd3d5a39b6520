"""What a notebook cannot show: broken connections, damaged files, an interrupted download."""

import hashlib
import http.server
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pooch
import pytest

from nas_nb.core import InputError
from nas_nb.data import sources
from nas_nb.data.sources import SOURCES, DataFile, Source, fetch_file, file_checksum, load_task

CONTENT = b"0123456789" * 5000
ASKED = []  # first byte of every request
PAGES = {
    "/whole": (len(CONTENT), CONTENT),
    "/broken": (len(CONTENT), CONTENT[:20_000]),  # promises all, closes after less than half
    "/short": (20_000, CONTENT[:20_000]),  # a complete answer with a truncated file
    "/other": (len(CONTENT), CONTENT[::-1]),
    "/page": (21, b"<html>Log in</html>\n\n"),
    "/long": (len(CONTENT) + 9, CONTENT + b"<and more"),
}
STATUS = {"/busy": 503, "/forbidden": 403}
RANGED = ("/ranges", "/moody", "/lying", "/stall", "/changed", "/slow")


class Publisher(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        first = int(self.headers.get("Range", "bytes=0-")[6:].split("-")[0])
        ASKED.append((self.path, first))
        if self.path in RANGED:
            self.give_range(first)
            return
        if self.path == "/login":
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(b"  <p>Please log in</p>")
            return
        if self.path not in PAGES:
            self.send_error(STATUS.get(self.path, 404))
            return
        n_bytes, content = PAGES[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(n_bytes))
        self.end_headers()
        self.wfile.write(content)

    def give_range(self, first):
        """A server that knows ranges, and gives at most 20,000 bytes an answer."""
        times = len([path for path, _ in ASKED if path == self.path])
        content = CONTENT[::-1] if self.path == "/changed" and times == 1 else CONTENT
        if self.path == "/moody" and times == 2:
            self.send_error(503)
            return
        start = first + 7 if self.path == "/lying" and first else first
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(content) - first))
        if first:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        rest = content[first:first + 20_000]
        self.wfile.write(rest)
        self.wfile.flush()
        if first == 0 and times == 1:
            time.sleep({"/stall": 3, "/slow": 90}.get(self.path, 0))

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
    monkeypatch.setattr(sources.Patience, "wait_s", 0)
    ASKED.clear()
    return tmp_path


def publish(monkeypatch, url):
    checksum = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
    file = DataFile("toy.bin", checksum, len(CONTENT), url)
    toy = Source("toy", "Toy", url, "CC0", "", "toys:load", folder="toy", files=(file,))
    monkeypatch.setitem(SOURCES, "toy", toy)


def files_in(folder):
    return sorted(p.name for p in (folder / "data").rglob("*") if p.is_file())


def kept(folder):
    """Bytes of what had arrived, kept outside of data/."""
    return [p.stat().st_size for p in (folder / ".partial").glob("*")]


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
        ("/login", "it is a web page"),
        ("/long", "it is longer than 50,000 bytes"),
        ("/lying", "it begins at byte"),
        ("/busy", "HTTP 503 Service Unavailable"),
        ("/forbidden", "HTTP 403 Forbidden"),
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
    assert not (project / "data").exists()
    assert all(0 < size < len(CONTENT) for size in kept(project))


def test_errors_that_pass_are_asked_again_and_others_are_not(address, project, monkeypatch):
    publish(monkeypatch, address + "/busy")
    with pytest.raises(InputError):
        fetch_file("toy", progress=False)
    assert len(ASKED) == 3
    publish(monkeypatch, address + "/forbidden")
    with pytest.raises(InputError):
        fetch_file("toy", progress=False)
    assert len(ASKED) == 4
    assert not (project / ".partial").exists()


@pytest.mark.parametrize("page", ["/ranges", "/moody"])
def test_broken_line_goes_on_where_it_stopped(address, project, monkeypatch, capsys, page):
    publish(monkeypatch, address + page)
    assert fetch_file("toy").read_bytes() == CONTENT
    first = [byte for _, byte in ASKED]
    assert first[0] == 0 and first[-1] > 30_000 and first == sorted(first)
    assert files_in(project) == ["toy.bin"]
    assert not (project / ".partial").exists()


def test_second_attempt_goes_on_after_days(address, project, monkeypatch):
    publish(monkeypatch, address + "/ranges")
    monkeypatch.setattr(sources.Patience, "tries", 1)
    sizes = []
    for _ in range(2):
        with pytest.raises(InputError, match="what had arrived is kept"):
            fetch_file("toy", progress=False)
        sizes += kept(project)
        assert not (project / "data").exists()
    assert sizes == sorted(set(sizes))
    assert fetch_file("toy", progress=False).read_bytes() == CONTENT
    assert [byte for _, byte in ASKED] == [0, *sizes]


def test_stall_is_given_up_and_gone_on_from(address, project, monkeypatch):
    monkeypatch.setattr(sources.Patience, "silence_s", 0.3)
    publish(monkeypatch, address + "/stall")
    assert fetch_file("toy", progress=False).read_bytes() == CONTENT
    ASKED.clear()
    (project / "data" / "toy" / "toy.bin").unlink()
    monkeypatch.setattr(sources.Patience, "tries", 1)
    with pytest.raises(InputError, match="no answer"):
        fetch_file("toy", progress=False)
    assert kept(project) and files_in(project) == []


def test_server_without_ranges_starts_again(address, project, monkeypatch):
    folder = project / ".partial"
    folder.mkdir()
    (folder / "toy-toy.bin.tmp").write_bytes(CONTENT[:12_345])
    publish(monkeypatch, address + "/whole")
    assert fetch_file("toy", progress=False).read_bytes() == CONTENT
    assert ASKED == [("/whole", 12_345)]


@pytest.mark.parametrize("old", [b"x" * 12_345, CONTENT[::-1], CONTENT + b"x"])
def test_wrong_pieces_are_thrown_away_and_fetched_once_more(address, project, monkeypatch, old):
    folder = project / ".partial"
    folder.mkdir()
    (folder / "toy-toy.bin.tmp").write_bytes(old)
    publish(monkeypatch, address + "/ranges")
    assert fetch_file("toy", progress=False).read_bytes() == CONTENT
    assert not folder.exists()


def test_file_that_changed_between_two_pieces(address, project, monkeypatch):
    publish(monkeypatch, address + "/changed")
    with pytest.raises(InputError, match="its contents differ"):
        fetch_file("toy", progress=False)
    assert files_in(project) == [] and kept(project) == []
    assert fetch_file("toy", progress=False).read_bytes() == CONTENT


def test_page_does_not_destroy_what_had_arrived(address, project, monkeypatch):
    folder = project / ".partial"
    folder.mkdir()
    (folder / "toy-toy.bin.tmp").write_bytes(CONTENT[:12_345])
    publish(monkeypatch, address + "/login")
    with pytest.raises(InputError, match="web page"):
        fetch_file("toy", progress=False)
    assert kept(project) == [12_345]


KILLED = """
import hashlib, sys
from nas_nb.data.sources import SOURCES, DataFile, Source, fetch_file
url, checksum = sys.argv[1:]
SOURCES["toy"] = Source("toy", "Toy", url, "CC0", "", "toys:load", folder="toy", files=(DataFile("toy.bin", checksum, 50_000, url),))
print(fetch_file("toy", progress=False))
"""


def test_killed_process_leaves_a_clean_folder_and_the_next_goes_on(address, project):
    checksum = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
    words = [sys.executable, "-c", KILLED, address + "/slow", checksum]
    first = subprocess.Popen(words, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    part = project / ".partial" / "toy-toy.bin.tmp"
    until = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size) and time.monotonic() < until:
        time.sleep(0.02)
    second = subprocess.run(words, cwd=project, capture_output=True, text=True, check=False)
    assert "is being downloaded by another program: wait for it" in second.stderr
    first.send_signal(signal.SIGKILL)
    first.wait()
    had = part.stat().st_size
    assert 0 < had < len(CONTENT) and not (project / "data").exists()
    ASKED.clear()
    third = subprocess.run(words, cwd=project, capture_output=True, text=True, check=True)
    assert Path(third.stdout.strip()).read_bytes() == CONTENT
    assert ASKED[0] == ("/slow", had)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_folder_that_may_not_be_written(address, project, monkeypatch):
    publish(monkeypatch, address + "/whole")
    project.chmod(0o555)
    try:
        with pytest.raises(InputError, match="Permission denied"):
            fetch_file("toy", progress=False)
    finally:
        project.chmod(0o755)


def test_full_disk_is_one_sentence(address, project, monkeypatch):
    def full(self, block):
        raise OSError(28, "No space left on device")

    publish(monkeypatch, address + "/whole")
    monkeypatch.setattr(sources._Sink, "write", full)
    with pytest.raises(InputError, match="No space left on device"):
        fetch_file("toy", progress=False)
    assert not (project / "data").exists()


def test_data_on_another_disk(address, project, monkeypatch):
    replace_file = os.replace

    def other_disk(source, target):
        if ".partial" in str(source):
            raise OSError(18, "Invalid cross-device link")
        replace_file(source, target)

    publish(monkeypatch, address + "/whole")
    monkeypatch.setattr(os, "replace", other_disk)
    assert fetch_file("toy", progress=False).read_bytes() == CONTENT
    assert files_in(project) == ["toy.bin"]


def test_no_server(project, monkeypatch):
    publish(monkeypatch, "http://127.0.0.1:9/toy.bin")
    with pytest.raises(InputError, match="no connection"):
        fetch_file("toy", progress=False)
    assert files_in(project) == []


def test_interrupted_by_the_user(address, project, monkeypatch):
    def interrupted(self, url, output_file, _):
        output_file.write(CONTENT[:100])
        raise KeyboardInterrupt

    publish(monkeypatch, address + "/whole")
    with monkeypatch.context() as patched:
        patched.setattr(pooch.HTTPDownloader, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch_file("toy", progress=False)
    assert files_in(project) == [] and kept(project) == [100]
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


# archives


def zip_of(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def tar_of(path, *entries):
    """Entries are names with data, or `TarInfo` of something else."""
    with tarfile.open(path, "w:gz") as archive:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                archive.addfile(entry)
            else:
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                archive.addfile(info, io.BytesIO(entry[1]))
    return path


def odd(kind, target=""):
    info = tarfile.TarInfo("photo.jpg")
    info.type, info.linkname = kind, target
    return info


def zip_link(path):
    info = zipfile.ZipInfo("photo.jpg")
    info.external_attr = 0o120777 << 16
    return zip_of(path, {info: "/etc/passwd"})


NAMES = ["../up.txt", "a/../../up.txt", "/etc/up.txt", "..\\up.txt", "C:\\up.txt", "C:up.txt", "\\\\host\\up.txt"]
HOSTILE = {
    **{f"zip {name}": (lambda p, name=name: zip_of(p, {"first.txt": b"1", name: b"x"}), "leads outside") for name in NAMES},
    **{f"tar {name}": (lambda p, name=name: tar_of(p, ("first.txt", b"1"), (name, b"x")), "leads outside") for name in NAMES},
    "tar symlink": (lambda p: tar_of(p, odd(tarfile.SYMTYPE, "/etc")), "is a link or a device"),
    "tar hard link": (lambda p: tar_of(p, ("a", b"1"), odd(tarfile.LNKTYPE, "a")), "is a link or a device"),
    "tar device": (lambda p: tar_of(p, odd(tarfile.CHRTYPE)), "is a link or a device"),
    "tar fifo": (lambda p: tar_of(p, odd(tarfile.FIFOTYPE)), "is a link or a device"),
    "zip link": (zip_link, "is a link"),
    "bomb": (lambda p: zip_of(p, {"zeros": bytes(3_000_000)}), "more than 1 MB would come out"),
    "tar bomb": (lambda p: tar_of(p, ("zeros", bytes(3_000_000))), "more than 1 MB would come out"),
    "many files": (lambda p: zip_of(p, {f"{k}": b"" for k in range(30)}), "more than 20 files would come out"),
    "twice": (lambda p: tar_of(p, ("a", b"1"), ("A", b"2")), "comes twice"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_are_refused_whole(project, case):
    make, said = HOSTILE[case]
    make(project / "a.bin")
    before = sorted(p.name for p in project.rglob("*"))
    with pytest.raises(InputError, match=said) as caught:
        sources.unpack(project / "a.bin", project / "data" / "toy", most_bytes=10**6, most_files=20)
    assert "a.bin" in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(p.name for p in project.rglob("*")) == before


def test_every_truncated_archive_is_refused_whole(project):
    content = {f"{k}.bin": os.urandom(500) for k in range(5)}
    for make in (lambda p: zip_of(p, content), lambda p: tar_of(p, *content.items())):
        whole = make(project / "a.bin").read_bytes()
        for size in range(0, len(whole) - 20, 211):
            (project / "a.bin").write_bytes(whole[:size])
            with pytest.raises(InputError, match="a.bin"):
                sources.unpack(project / "a.bin", project / "data" / "toy")
            assert not (project / "data").exists()


def test_size_that_an_archive_lies_about(project):
    path = zip_of(project / "a.zip", {"zeros": bytes(1_000_000)})
    path.write_bytes(path.read_bytes().replace((1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(InputError, match="no complete zip"):
        sources.unpack(path, project / "data" / "toy", most_bytes=1000)
    assert not (project / "data").exists()


def test_encrypted_member(project):
    path = zip_of(project / "a.zip", {"secret": b"x"})
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="is encrypted"):
        sources.unpack(path, project / "data" / "toy")


def test_by_hand_and_options(project):
    with pytest.raises(InputError, match="ask for access at"):
        load_task("imagenet")
    with pytest.raises(InputError, match="any int"):
        load_task("imagenet", size="64")
    with pytest.raises(InputError, match="any int"):
        load_task("imagenet", size=True)
