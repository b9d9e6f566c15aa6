"""A headless Chromium driven through its debugging protocol: just enough to look at a page."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)


class Page:
    """One tab.  `errors`: what the console or an exception said; `requests`: every address that was asked for."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._count = socket, 0
        self.errors: list[str] = []
        self.requests: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of one protocol command."""
        self._count += 1
        await self._socket.send_json({"id": self._count, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json(timeout=120)
            if message.get("id") == self._count:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return dict(message["result"])
            kind, content = message.get("method"), message.get("params", {})
            if kind == "Network.requestWillBeSent":
                self.requests.append(content["request"]["url"])
            elif kind == "Runtime.exceptionThrown" or (
                kind == "Runtime.consoleAPICalled" and content["type"] in ("error", "warning", "assert")
            ):
                self.errors.append(json.dumps(content)[:500])
            elif kind == "Log.entryAdded" and content["entry"]["level"] in ("error", "warning"):
                self.errors.append(json.dumps(content["entry"])[:500])

    async def js(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    async def open(self, path: Path, width: int = 1200, height: int = 900, scheme: str = "light") -> None:
        """Load a page that sets ``data-ready`` on its root when it is done."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        await self.media(scheme)
        await self.call("Page.navigate", url=path.resolve().as_uri())
        for _ in range(300):
            if await self.js("document.documentElement?.dataset.ready") == "yes":
                return
            await asyncio.sleep(0.1)
        raise TimeoutError(f"{path} is not ready after 30 s; errors: {self.errors}")

    async def media(self, scheme: str) -> None:
        """Prefer "light" or "dark"."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=features)

    async def key(self, key: str, code: int) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    async def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        size = (await self.call("Page.getLayoutMetrics"))["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 12000), "scale": 1}
        image = await self.call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(image["data"]))


@contextlib.asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Page]:
    """A fresh Chromium with one tab; `profile` is an empty folder."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    process = subprocess.Popen(
        [*command, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=(profile.parent / "chromium.log").open("w"),
    )
    try:
        port = await _port(profile.parent / "chromium.log", process)
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as response:
                tabs = [tab for tab in await response.json(content_type=None) if tab["type"] == "page"]
            async with session.ws_connect(tabs[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await page.call(f"{domain}.enable")
                yield page
    finally:
        process.terminate()
        process.wait(timeout=30)


async def _port(log: Path, process: subprocess.Popen[bytes]) -> int:
    for _ in range(300):
        found = re.search(r"DevTools listening on ws://[^:]+:(\d+)/", log.read_text())
        if found:
            return int(found.group(1))
        if process.poll() is not None:
            break
        await asyncio.sleep(0.1)
    raise RuntimeError(f"Chromium did not start: {log.read_text()[-500:]}")
