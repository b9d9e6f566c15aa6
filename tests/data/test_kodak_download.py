"""Fetching Kodak from a server on this machine: complete, resumed, damaged, closed."""

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

    def do_GET(self) -> None:
        content = FILES[self.path.strip("/")]
        asked = self.headers.get("Range")
        type(self).requests.append(f"{self.path} {asked}")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:])

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


def test_fetches_what_is_missing_and_continues_what_was_cut(tmp_path: Path, url: str) -> None:
    folder = tmp_path / "kodak"
    folder.mkdir()
    (folder / "kodim01.png").write_bytes(FILES["kodim01.png"])  # there already
    (folder / "kodim02.png.part").write_bytes(FILES["kodim02.png"][:700])  # interrupted
    (folder / "kodim03.png.part").write_bytes(FILES["kodim03.png"])  # complete, not yet renamed
    assert main(["download-kodak", "--data-dir", str(tmp_path), "--url", url]) == 0
    assert Server.requests == ["/kodim02.png bytes=700-", "/kodim03.png bytes=3000-"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert kodak.download(tmp_path, url) == 0  # nothing left to do


def test_damaged_file_is_refused(tmp_path: Path, url: str) -> None:
    (tmp_path / "kodak").mkdir()
    (tmp_path / "kodak" / "kodim02.png.part").write_bytes(b"wrong start")
    with pytest.raises(ImageError, match="SHA-256 differs"):
        kodak.download(tmp_path, url)
    assert kodak.download(tmp_path, url) == 2  # the damaged part is gone, the next try succeeds


def test_closed_network_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download-kodak", "--data-dir", str(tmp_path), "--url", "http://127.0.0.1:9/"]) == 1
    message = capsys.readouterr().err
    assert "by hand" in message
    assert "Traceback" not in message
