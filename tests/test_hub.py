"""A post on a real JupyterHub, and each way in which that can end badly."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from toy import make_project, tree

from nas_nb.core import InputError
from nas_nb.publish import hub_kernel
from nas_nb.publish.cli import main
from nas_nb.publish.hub_server import Hub
from nas_nb.publish.post import RunFailed, execute, plan_post, publish_post, verify_post

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
c.Spawner.args = ["--allow-root"]
c.Spawner.environment = {{"PYTHONPATH": {!r}}}
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


class Line:
    """A network between a client and the hub that can be cut."""

    def __init__(self, port):
        self.port, self.ends, self.listening = port, [], socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listening.getsockname()[1]}"
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


class Meanwhile:
    """Takes the lines of a run, and does something when its cell has begun."""

    def __init__(self, action):
        self.text, self.thread = "", threading.Thread(target=action, daemon=True)

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
    text = CONFIG.format(port, hub_port, api_port, find_proxy(), sys.executable, str(root), homes)
    (folder / "config.py").write_text(text)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("JUPYTER", "NAS_NB_HUB"))}
    with open(folder / "log.txt", "w") as log:
        words = [sys.executable, "-m", "jupyterhub", "-f", "config.py"]
        process = subprocess.Popen(words, cwd=folder, env=env, stdout=log, stderr=log)
    base = f"http://127.0.0.1:{port}"
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


def broken(running, line, monkeypatch, action):
    """What a run says whose line is tampered with while its cell computes."""
    monkeypatch.setenv("NAS_NB_HUB", line.url)
    meanwhile = Meanwhile(action)
    with pytest.raises(RunFailed) as caught:
        execute(plan_post("means", {"fail": "wait"}, on="hub"), meanwhile)
    assert "cell 3/4 (Work)" in meanwhile.text
    assert (running / "blog" / "drafts" / "means-digits-toy-fail-wait" / "page.html").is_file()
    return str(caught.value)


def test_a_moment_without_network(weekly, running, monkeypatch):
    line = Line(int(weekly.server.split(":")[2].split("/")[0]))
    assert "network lost for a moment, so outputs may be missing" in broken(running, line, monkeypatch, line.break_connections)


def test_no_network_any_more(weekly, running, monkeypatch):
    line = Line(int(weekly.server.split(":")[2].split("/")[0]))
    assert "network lost: the run may go on on the server of alice" in broken(running, line, monkeypatch, line.cut)
    (left,) = weekly.kernels()
    assert left["execution_state"] == "busy"
    weekly.ask("DELETE", f"/kernels/{left['id']}")


def test_a_server_that_is_stopped_during_the_run(weekly, running):
    stop = Meanwhile(lambda: weekly.ask("DELETE", "users/alice/server"))
    with pytest.raises(RunFailed, match="the server of alice was stopped during the run"):
        execute(plan_post("means", {"fail": "wait"}, on="hub"), stop)
    stop.thread.join()
