"""A post on a real JupyterHub, and each way in which that can end badly."""

import gc
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from toy import make_project, tree

from nas_nb.core import InputError, RunFailed
from nas_nb.publish import doctor, hub_kernel
from nas_nb.publish.batch import Batch
from nas_nb.publish.cli import main
from nas_nb.publish.hub_runs import FOLDER
from nas_nb.publish.hub_server import Hub
from nas_nb.publish.post import alone, execute, plan_post, publish_post, verify_post

pytest.importorskip("jupyterhub", reason="jupyterhub is not installed")
CONFIG = """
from jupyterhub.spawner import SimpleLocalProcessSpawner

class Spawner(SimpleLocalProcessSpawner):
    async def start(self):
        if self.user.name == "bob": raise RuntimeError("no GPU is free")
        return await super().start()

c.JupyterHub.spawner_class = Spawner
c.JupyterHub.authenticator_class = "dummy"
c.JupyterHub.bind_url = "http://127.0.0.1:{}"
c.JupyterHub.hub_port = {}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{}"
c.ConfigurableHTTPProxy.command = [{!r}]
c.JupyterHub.services = [{{"name": "weekly", "api_token": "service-token"}}]
c.JupyterHub.load_roles = [{{"name": "weekly", "services": ["weekly"], "scopes": ["admin:users", "tokens", "servers", "access:servers"]}}]
c.Spawner.cmd = [{!r}, "-m", "jupyterhub.singleuser"]
c.Spawner.args = ["--allow-root", "--FileContentsManager.delete_to_trash=False"]
c.Spawner.environment = {{"PYTHONPATH": {!r}, "TEST_HUB": {!r}}}
c.Spawner.http_timeout = c.Spawner.start_timeout = 300
c.SimpleLocalProcessSpawner.home_dir_template = {!r}
"""


def find_proxy():
    """The program in front of a hub; it comes from npm and is kept outside of the repository."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nas_nb" / "configurable-http-proxy"
    kept = cache / "node_modules" / ".bin" / "configurable-http-proxy"
    if found := shutil.which("configurable-http-proxy"):
        return found
    if not kept.exists():
        if not shutil.which("npm"):
            pytest.skip("configurable-http-proxy is not installed, and there is no npm to install it")
        done = subprocess.run(["npm", "install", "--silent", "--prefix", cache, "configurable-http-proxy"], check=False)
        if done.returncode:
            pytest.skip("npm cannot install configurable-http-proxy")
    return str(kept)


def free_ports(n):
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


class BadGateway(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(502)

    do_POST = do_DELETE = do_GET

    def log_message(self, *_):
        pass


@contextmanager
def gateway(port=0):
    """A proxy with nothing behind it; gives its address."""
    with ThreadingHTTPServer(("127.0.0.1", port), BadGateway) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Line:
    """A network between a client and the hub that can be cut."""

    def __init__(self, port):
        self.port, self.ends, self.near, self.lost = port, [], ("127.0.0.1", 0), set()
        self.restore()
        self.near = self.listening.getsockname()
        self.url = "http://{}:{}".format(*self.near)

    def restore(self):
        self.listening = socket.create_server(self.near)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near = self.listening.accept()[0]
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.port))
            self.ends += [near, far]
            for a, b in ((near, far), (far, near)):
                threading.Thread(target=self.carry, args=(a, b), daemon=True).start()

    def carry(self, a, b):
        try:
            while data := a.recv(65536):
                if a not in self.lost:
                    b.sendall(data)
        except OSError:
            pass
        for s in (a, b):
            s.close()

    def break_connections(self):
        for s in self.ends:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        self.listening.shutdown(socket.SHUT_RDWR)
        self.listening.close()
        self.break_connections()

    def swallow(self):
        """What is on its way never arrives, and nobody is told."""
        self.lost |= set(self.ends)

    def cut_for(self, seconds):
        self.cut()
        time.sleep(seconds)
        self.restore()

    def answer_502_for(self, seconds):
        """A proxy is there, and the hub behind it is not."""
        self.cut()
        with gateway(self.near[1]):
            time.sleep(seconds)
        self.restore()


class Meanwhile:
    """Takes the lines of a run, and does something half a second after its cell has begun."""

    def __init__(self, action):
        self.text, self.thread = "", threading.Timer(0.5, action)
        self.thread.daemon = True

    def write(self, text):
        self.text += text
        if "epoch" in text:
            self.thread.start()

    def flush(self):
        pass


@pytest.fixture(scope="module")
def weekly(tmp_path_factory):
    """A hub with the users alice and bob, as a service sees it."""
    folder, (port, hub_port, api_port) = tmp_path_factory.mktemp("hub"), free_ports(3)
    root = Path(hub_kernel.__file__).resolve().parents[2]
    homes = str(tmp_path_factory.mktemp("homes") / "{username}")
    base = f"http://127.0.0.1:{port}"
    text = CONFIG.format(port, hub_port, api_port, find_proxy(), sys.executable, str(root), f"{base}/hub/api", homes)
    (folder / "config.py").write_text(text)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "NAS_NB_HUB"))}
    with open(folder / "log.txt", "w") as log:
        words = [sys.executable, "-m", "jupyterhub", "-f", "config.py"]
        process = subprocess.Popen(words, cwd=folder, env=env, stdout=log, stderr=log)
    hub = Hub(f"{base}/hub/api", f"{base}/user/alice/", "alice", "service-token")
    try:
        while True:
            assert process.poll() is None, (folder / "log.txt").read_text()
            try:
                hub.ask("GET", "user")
                break
            except InputError:  # the proxy answers before the hub does
                time.sleep(0.1)
        for name in ("alice", "bob"):
            hub.ask("POST", f"users/{name}")
        yield hub
        hub.ask("DELETE", "users/alice/server", okay=(404,))
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def house(weekly, tmp_path, monkeypatch):
    """A project whose settings are those of alice, with a token of her own."""
    for name in [k for k in os.environ if k.startswith(("JUPYTERHUB", "NAS_NB_HUB"))]:
        monkeypatch.delenv(name)
    token = weekly.ask("POST", "users/alice/tokens", {"expires_in": 600}).json()["token"]
    monkeypatch.setenv("NAS_NB_HUB", weekly.api.removesuffix("/hub/api"))
    monkeypatch.setenv("NAS_NB_HUB_TOKEN", token)
    monkeypatch.chdir(make_project(tmp_path))
    return tmp_path


@pytest.fixture
def running(weekly, house):
    """The project, while the server of alice runs without a kernel, as it must again afterwards."""
    if not weekly.state().get("ready"):
        weekly.start()
    assert weekly.kernels() == []
    yield house
    gc.collect()  # tasks of a lost connection end here, and not while a later test parses code (CPython 3.11 fails then, gh-106905)
    assert not weekly.state().get("ready") or weekly.kernels() == []


@pytest.mark.parametrize(("setting", "value", "said"), [
    ("NAS_NB_HUB_TOKEN", "guessed", "the hub does not know the token: make a new one"),
    ("NAS_NB_HUB_USER", "carol", "the hub knows no user 'carol', or the token may not see that user"),
    ("NAS_NB_HUB", "http://127.0.0.1:1", "the hub at http://127.0.0.1:1 does not answer"),
])
def test_what_is_refused_before_work(house, monkeypatch, capsys, setting, value, said):
    monkeypatch.setenv(setting, value)
    before = tree(house)
    assert main(["post", "means", "--on", "hub"]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1) and said in err
    assert tree(house) == before


def test_a_proxy_without_its_hub_is_refused_before_work(house, monkeypatch, capsys):
    before = tree(house)
    with gateway() as url:
        monkeypatch.setenv("NAS_NB_HUB", url)
        assert main(["post", "means", "--on", "hub"]) == 2
    assert "the proxy before the hub answered 502: the hub or the network is away" in capsys.readouterr().err
    assert tree(house) == before


def test_a_server_that_will_not_start(weekly, house, monkeypatch, capsys):
    monkeypatch.setenv("NAS_NB_HUB_TOKEN", "service-token")
    monkeypatch.setenv("NAS_NB_HUB_USER", "bob")
    assert main(["post", "means", "--on", "hub"]) == 1
    assert "the server of bob will not start" in capsys.readouterr().err.splitlines()[-1]
    assert not (house / "blog" / "posts").exists()


def test_a_post_from_outside(weekly, house, monkeypatch):
    """The server is started and stopped again; only the post comes back, with what the kernel there recorded."""
    assert weekly.state() == {}
    page = publish_post("means", {"seeds": 5, "runs": "far/runs"}, on="hub")
    assert weekly.state() == {}
    assert verify_post(page) == [] and not (house / "far").exists()
    results, notebook = ((page.parent / name).read_text() for name in ("results.json", "index.ipynb"))
    assert '"value": 2.0' in results and "nas-nb post means -p seeds 5 --on hub" in results
    for text in (results, notebook, page.read_text()):
        assert "homes" not in text and "alice" not in text and os.environ["NAS_NB_HUB_TOKEN"] not in text
    assert "here . home ~" in notebook or "here . home ." in notebook


def test_a_kernel_that_dies(running, capsys):
    assert main(["post", "means", "-p", "fail", "kernel", "--on", "hub"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "cell 3/4 (Work): the kernel on the server died (too little memory is the usual cause)" in last
    assert (running / "blog" / "drafts" / "means-digits-toy-fail-kernel" / "page.html").is_file()
    assert not (running / "blog" / "posts").exists()


def test_a_cell_that_takes_too_long(running):
    plan = plan_post("means", {"fail": "wait"}, on="hub", cell_timeout=2.0)
    with pytest.raises(RunFailed, match="took longer than 2.0 s"):
        execute(plan)


def line_to(weekly):
    return Line(int(weekly.server.split(":")[2].split("/")[0]))


@pytest.mark.parametrize("away", [lambda line: line.cut_for(0), lambda line: line.cut_for(3), lambda line: line.answer_502_for(2)], ids=["0 s", "3 s", "502"])
def test_a_network_that_comes_back(weekly, running, monkeypatch, capsys, away):
    """The same kernel goes on, and what it said meanwhile is in the post."""
    line, seen = line_to(weekly), []

    def action():
        seen.append(weekly.kernels()[0]["id"])
        away(line)
        time.sleep(1)
        seen.append(weekly.kernels()[0]["id"])

    monkeypatch.setenv("NAS_NB_HUB", line.url)
    meanwhile = Meanwhile(action)
    nb = execute(plan_post("means", {"fail": "pause"}, on="hub"), meanwhile)
    meanwhile.thread.join()
    assert len(seen) == 2 and len(set(seen)) == 1
    assert "connected again to the same kernel" in capsys.readouterr().err
    assert sum("after the pause" in o.get("text", "") for c in nb.cells for o in c.get("outputs", [])) == 1


@pytest.mark.parametrize(("cell", "said"), [("pause", ""), ("chatter", "of the kernel's messages did not come back: outputs are missing")])
def test_a_connection_that_is_dead_and_not_closed(weekly, running, monkeypatch, capsys, cell, said):
    """A silent cell goes on over a new one; what another printed meanwhile is gone, so there is no post without it."""
    line = line_to(weekly)
    monkeypatch.setenv("NAS_NB_HUB", line.url)
    monkeypatch.setattr(hub_kernel, "POLL_S", 0.5)
    with pytest.raises(RunFailed, match=said) if said else nullcontext():
        execute(plan_post("means", {"fail": cell}, on="hub"), Meanwhile(line.swallow))
    assert "connected again to the same kernel" in capsys.readouterr().err


def test_no_network_any_more(weekly, running, monkeypatch):
    line = line_to(weekly)
    monkeypatch.setenv("NAS_NB_HUB", line.url)
    monkeypatch.setenv("NAS_NB_HUB_PATIENCE", "2")
    meanwhile = Meanwhile(line.cut)
    with pytest.raises(RunFailed) as caught:
        execute(plan_post("means", {"fail": "wait"}, on="hub"), meanwhile)
    (left,) = weekly.kernels()
    assert left["execution_state"] == "busy"
    weekly.ask("DELETE", f"/kernels/{left['id']}")
    assert f"cell 3/4 (Work): network lost: the kernel {left['id'][:8]} on the server of alice was" in str(caught.value)
    assert "shut it down under Running in JupyterLab, and run again with --on hub" in str(caught.value)
    assert (running / "blog" / "drafts" / "means-digits-toy-fail-wait" / "page.html").is_file()


def test_a_server_that_is_stopped_during_the_run(weekly, running):
    stop = Meanwhile(lambda: weekly.ask("DELETE", "users/alice/server"))
    with pytest.raises(RunFailed, match="the server of alice was stopped during the run"):
        execute(plan_post("means", {"fail": "wait"}, on="hub"), stop)
    stop.thread.join()


def states(capsys):
    capsys.readouterr()
    assert main(["status", "--json"]) == 0
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)}


def kernel_processes(hub):
    """How many kernels live on the servers of a hub, whether a server lists them or not."""
    found = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words, env = (folder / "cmdline").read_bytes(), (folder / "environ").read_bytes()
        except OSError:
            continue
        found += b"ipykernel_launcher" in words and f"TEST_HUB={hub.api}".encode() in env
    return found


def test_runs_that_are_left_to_the_server(weekly, house, capsys):
    """One that ends well and one that fails, on a server that is started for them; nothing of them stays."""
    if weekly.state():
        weekly.ask("DELETE", "users/alice/server")
    while weekly.state():
        time.sleep(0.1)
    before = kernel_processes(weekly)
    assert main(["post", "means", "-p", "seeds", "5", "-p", "runs", "far/runs", "--on", "hub", "--detach"]) == 0
    assert capsys.readouterr().out.split() == ["means-digits-toy-seeds-5"]
    assert main(["post", "means", "-p", "fail", "error", "--on", "hub", "--detach"]) == 0
    assert main(["post", "means", "-p", "fail", "error", "--on", "hub", "--detach"]) == 2
    assert "already out" in capsys.readouterr().err
    while "running" in {row["state"] for row in states(capsys).values()}:
        time.sleep(0.2)
    found = states(capsys)
    assert found["means-digits-toy-seeds-5"]["state"] == "done"
    assert found["means-digits-toy-fail-error"]["said"] == "cell 3/4 (Work): ValueError: the loss is not finite"
    for record in (house / "data" / "runs" / "hub").iterdir():
        assert os.environ["NAS_NB_HUB_TOKEN"] not in record.read_text()
    weekly.ask("DELETE", "users/alice/server")
    while weekly.state():
        time.sleep(0.1)
    assert {row["state"] for row in states(capsys).values()} == {"stopped"}
    assert main(["fetch"]) == 1
    out, err = capsys.readouterr()
    page = Path(out.strip())
    assert verify_post(page) == [] and "ValueError: the loss is not finite; the draft with that cell is" in err
    results, notebook = ((page.parent / name).read_text() for name in ("results.json", "index.ipynb"))
    assert '"value": 2.0' in results and "nas-nb post means -p seeds 5 --on hub" in results and '"cpu"' in results
    for text in (results, notebook, page.read_text()):
        assert "homes" not in text and "alice" not in text and os.environ["NAS_NB_HUB_TOKEN"] not in text
    assert (house / "blog" / "drafts" / "means-digits-toy-fail-error" / "page.html").is_file()
    assert states(capsys) == {}
    while weekly.state() or kernel_processes(weekly) > before:
        time.sleep(0.1)


def test_a_run_whose_kernel_is_lost(weekly, running, capsys):
    """The kernel that executes it is shut down, and with it goes the one of the notebook; what had come so far is kept."""
    before = kernel_processes(weekly)
    assert main(["post", "means", "-p", "fail", "wait", "--on", "hub", "--detach"]) == 0
    name = "means-digits-toy-fail-wait"
    while "Work" not in states(capsys)[name]["said"]:
        time.sleep(0.2)
    (kernel,) = weekly.kernels()
    assert (kernel["execution_state"], kernel["connections"]) == ("busy", 0)
    assert main(["fetch", name]) == 2
    assert "still runs, cell 3/4 (Work)" in capsys.readouterr().err
    weekly.ask("DELETE", f"/kernels/{kernel['id']}", timeout_s=60)
    assert states(capsys)[name]["state"] == "lost"
    assert main(["fetch", name]) == 1
    assert "cell 3/4 (Work): its kernel on the server ended here" in capsys.readouterr().err
    assert (running / "blog" / "drafts" / name / "page.html").is_file()
    assert left_on(weekly) == []
    while kernel_processes(weekly) > before:
        time.sleep(0.2)


def left_on(hub):
    """What lies in the folder of detached runs on a server, which here has no trash."""
    return [item["name"] for item in hub.ask("GET", f"/contents/{FOLDER}?content=1").json()["content"]]


def test_nothing_stays_of_a_run_that_the_server_cannot_do(weekly, running, capsys):
    """A library cannot be imported there; and a second program that leaves the same run at that moment is refused."""
    weekly.write("papermill.py", "raise ImportError('it was built for another Python')")
    words = ["post", "means", "--on", "hub", "--detach"]
    before = tree(running)
    try:
        assert main(words) == 2
    finally:
        weekly.delete("papermill.py")
    err = capsys.readouterr().err
    assert "the server of alice cannot run a notebook alone: ImportError: it was built for another Python; in a terminal there: pip install" in err
    assert left_on(weekly) == [] and states(capsys) == {}
    assert [p for p, data in tree(running).items() if data and p not in before] == []
    with alone(plan_post("means", {}, on="hub")):
        assert main(words) == 2
    assert "the post means-digits-toy is being made by another program" in capsys.readouterr().err


def test_a_batch_starts_the_server_once(weekly, house, capfd):
    if weekly.state():
        weekly.ask("DELETE", "users/alice/server")
    while weekly.state():
        time.sleep(0.1)
    (house / "night.yaml").write_text("- template: means\n  grid: {seeds: [4, 5]}\n- comparison: false\n")
    seen = []
    rows = Batch("night.yaml", "hub").work(tell=lambda text: seen.append((text.split()[1], weekly.state().get("ready"))))
    assert [row["state"] for row in rows] == ["done", "done"]
    assert seen == [("starts", True), ("done", True)] * 2 and weekly.state() == {}


def test_the_doctor_compares(weekly, running, capsys, monkeypatch):
    assert main(["doctor", "--on", "hub", "--json"]) == 0
    found = {row["what"]: row for row in json.loads(capsys.readouterr().out)}
    assert found["torch"]["here"] == found["torch"]["there"] and "cores" in found["device"]["there"]
    monkeypatch.setattr(doctor, "needs", lambda: [Requirement("nas_nb"), Requirement("torch<2")])
    assert main(["doctor", "--on", "hub"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert "in a terminal of the server: pip install 'torch<2'" in out[2]
    assert out[-1] == "1 of these would make a run on the server fail"
