"""Fetching Kodak from a server on this machine: what is missing, damaged files, no network."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from diffpress.commands.data import main
from diffpress.data import ImageError, kodak

FILES = {f"kodim{i:02d}.png": bytes([i]) * (1000 * i) for i in (1, 2, 3)}


class Server(BaseHTTPRequestHandler):
    requests: list[str]
    lacking = 0  # bytes that are announced and not sent

    def do_GET(self) -> None:
        content = FILES[self.path.strip("/")]
        type(self).requests.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) + type(self).lacking))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(kodak, "SHA256", {n: hashlib.sha256(data).hexdigest() for n, data in FILES.items()})
    Server.requests = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def test_fetches_what_is_missing_or_damaged(tmp_path: Path, url: str) -> None:
    folder = tmp_path / "kodak"
    folder.mkdir()
    (folder / "kodim01.png").write_bytes(FILES["kodim01.png"])  # there already
    (folder / "kodim02.png").write_bytes(FILES["kodim02.png"][:700])
    assert main(["download-kodak", "--data-dir", str(tmp_path), "--url", url]) == 0
    assert Server.requests == ["/kodim02.png", "/kodim03.png"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert kodak.download(tmp_path, url) == 0  # nothing left to do


def test_another_or_a_cut_file_is_refused(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kodak.SHA256, "kodim02.png", "0" * 64)
    with pytest.raises(ImageError, match="SHA-256 differs"):
        kodak.download(tmp_path, url)
    assert [path.name for path in (tmp_path / "kodak").iterdir()] == ["kodim01.png"]
    monkeypatch.setattr(Server, "lacking", 5)
    monkeypatch.delitem(kodak.SHA256, "kodim02.png")
    with pytest.raises(ImageError, match=r"cannot be fetched .* by hand"):
        kodak.download(tmp_path, url)


def test_closed_network_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download-kodak", "--data-dir", str(tmp_path), "--url", "http://127.0.0.1:9/"]) == 2
    message = capsys.readouterr().err
    assert "by hand" in message
    assert "Traceback" not in message
