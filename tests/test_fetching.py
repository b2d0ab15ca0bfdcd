"""Pictures fetched from a server of this process that answers in every way but the right one."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import ROOT

from k3m_jax.data.catalog.fetched import FETCHED, Limits, fetched_path
from k3m_jax.data.catalog.readers import open_catalog
from k3m_jax.data.records import InvalidRecordError
from launch.cli import run_command
from tests.products import jpeg

pytest.importorskip("aiohttp", reason="needs pip install -r requirements-fetch.txt")
from k3m_jax.data.catalog import fetching
from k3m_jax.data.catalog.fetching import fetch, is_public

QUICK = Limits(8, 4, retries=2, timeout=20.0, max_bytes=20_000, private_addresses=True)


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        kind, server = self.path.split("/")[1], self.server
        server.asked.append(self.path)
        server.now += 1
        server.most = max(server.most, server.now)
        try:
            getattr(self, f"do_{kind}")()
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            server.now -= 1

    def answer(self, status, body=b"", length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_ok(self):
        time.sleep(self.server.slow)
        self.answer(200, jpeg(int(self.path.split("/")[2]) % 7, 20))

    def do_redirect(self):
        self.answer(302, Location="/ok/1")

    def do_loop(self):
        self.answer(302, Location="/loop")

    def do_away(self):
        self.answer(301, Location="http://169.254.169.254/latest")

    def do_missing(self):
        self.answer(404, b"<html>")

    def do_busy(self):
        if self.server.asked.count(self.path) < 3:
            self.answer(429, Retry_After="0")
        else:
            self.do_ok()

    def do_html(self):
        self.answer(200, b"<html>sold out", Content_Type="image/jpeg")

    def do_cut(self):
        self.answer(200, jpeg(1, 20)[:100], length=5000)

    def do_half(self):
        self.answer(200, jpeg(1, 60)[:-500])

    def do_large(self):
        self.answer(200, b"x" * 30_000)

    def do_stall(self):
        self.server.over.wait(30)


@pytest.fixture
def server():
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.asked, running.now, running.most, running.slow = [], 0, 0, 0.0
    running.over = threading.Event()
    threading.Thread(target=running.serve_forever, daemon=True).start()
    running.url = f"http://127.0.0.1:{running.server_port}"
    yield running
    running.over.set()
    running.shutdown()
    running.server_close()


def causes(folder):
    lines = map(json.loads, (folder / "failures.jsonl").open())
    return {line["address"].rpartition("/")[2]: line["cause"] for line in lines}


def test_every_answer_has_its_cause(server, tmp_path):
    kinds = ["ok/1", "ok/8", "redirect", "busy/2", "loop", "missing", "html", "cut", "half"]
    addresses = [f"{server.url}/{kind}" for kind in [*kinds, "large", "ok/1"]]
    others = ["http://[", "ftp://127.0.0.1/x", "http://127.0.0.1:1/refused"]
    said = fetch([*addresses, *others], tmp_path, QUICK)
    assert '"fetched": 4' in said
    assert causes(tmp_path) == {
        "loop": "too_many_redirections",
        "missing": "http_404",
        "html": "not_a_picture",
        "cut": "cut_short",
        "half": "not_a_picture",
        "large": "too_large",
        "refused": "connection",
        "x": "bad_address",
        "[": "bad_address",
    }
    assert fetched_path(tmp_path, addresses[0]) == fetched_path(tmp_path, addresses[1])
    assert (tmp_path / fetched_path(tmp_path, addresses[2])).read_bytes() == jpeg(1, 20)
    with pytest.raises(InvalidRecordError, match="http_404"):
        fetched_path(tmp_path, f"{server.url}/missing")
    assert server.asked.count("/missing") == 1
    assert server.asked.count("/cut") == 1 + QUICK.retries
    assert server.most <= QUICK.per_host

    server.asked.clear()
    fetch(addresses, tmp_path, QUICK)
    assert set(server.asked) == {"/cut"}  # what may have passed
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 4


def test_a_host_that_stalls_is_left(server, tmp_path):
    limits = Limits(retries=1, timeout=0.5, private_addresses=True)
    fetch([f"{server.url}/stall"], tmp_path, limits)
    assert causes(tmp_path) == {"stall": "timeout"}


def test_private_addresses_are_not_asked(server, tmp_path):
    limits = Limits(retries=0)
    port = server.server_port
    hosts = ("127.0.0.1", "localhost", "0x7f000001", "127.1", "[::ffff:127.0.0.1]", "10.0.0.1")
    fetch([f"http://{host}:{port}/ok/1" for host in hosts], tmp_path, limits)
    found = {json.loads(line)["cause"] for line in (tmp_path / "failures.jsonl").open()}
    assert found <= {"private_address", "connection"}  # a resolver may refuse the odd spellings
    assert not server.asked


def test_no_redirection_leads_into_a_private_network(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
    fetch([f"{server.url}/away"], tmp_path, Limits(retries=0))
    assert causes(tmp_path) == {"away": "private_address"}
    assert server.asked == ["/away"]


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1"])
def test_public_addresses(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "::1", "::ffff:10.0.0.1", "192.168.1.1", "224.0.0.1", "fe80::1%eth0"],
)
def test_other_addresses(address):
    assert not is_public(address)


def test_from_a_dump_to_its_pictures(server, tmp_path, capsys):
    lines = ["Handle,Title,Image Src,Variant Price"]
    lines += [f"p{i},Thing {i},{server.url}/ok/{i},1" for i in range(3)]
    lines += [f"p3,Thing 3,{server.url}/missing,1"]
    (tmp_path / "shop.csv").write_text("\n".join(lines))
    dump = ["--format=table", "--mapping=shopify", f"--input={tmp_path / 'shop.csv'}"]
    flags = [*dump, f"--output={tmp_path / 'pictures'}", "--limits.private_addresses"]
    assert run_command("launch.fetch_pictures", flags) == 0
    assert f'"{FETCHED}": 3, "http_404": 1' in capsys.readouterr().out
    options = {"mapping": "shopify", "pictures": str(tmp_path / "pictures")}
    catalog = open_catalog("table", tmp_path / "shop.csv", **options)
    images = [catalog.read(raw).sources["image"][0] for raw in catalog.lines()]
    assert [catalog.read_picture(image) for image in images[:3]] == [jpeg(i, 20) for i in range(3)]
    with pytest.raises(InvalidRecordError, match="http_404"):
        catalog.read_picture(images[3])
    with pytest.raises(InvalidRecordError, match="--pictures"):
        open_catalog("table", tmp_path / "shop.csv", mapping="shopify").read_picture(images[0])


@pytest.mark.slow
def test_a_fetch_that_was_killed_goes_on(server, tmp_path):
    server.slow = 0.05
    lines = [{"id": i, "images": [f"{server.url}/ok/{i}"]} for i in range(120)]
    (tmp_path / "products.jsonl").write_text("\n".join(map(json.dumps, lines)))
    command = [sys.executable, "-m", "launch.fetch_pictures", "--format=jsonl"]
    command += [f"--input={tmp_path}", f"--output={tmp_path / 'out'}", "--limits.private_addresses"]
    command += ["--limits.per_host=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    while len(server.asked) < 70:
        assert running.poll() is None
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    before = len(server.asked)
    assert before < 120
    server.slow = 0.0
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert f'"{FETCHED}": 120' in done.stdout
    assert len(server.asked) - before < 120  # what was there was not asked again
    assert len(list(pathlib.Path(tmp_path / "out").glob("??/*"))) == 7  # by content
