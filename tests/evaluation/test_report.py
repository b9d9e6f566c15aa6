"""The report in a real browser: complete in itself, and every control does what it says."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from diffpress.data import ImageFolder, read_image
from diffpress.evaluation.compare import evaluate
from diffpress.evaluation.metrics.learned import LearnedMetrics
from diffpress.evaluation.points import parse_specs
from diffpress.evaluation.report.page import write_report

pytestmark = pytest.mark.filterwarnings("ignore")


def make_report(pictures: Path, out: Path) -> Path:
    curve = {
        "name": "Old",
        "description": "someone's",
        "dataset": "pictures-in",
        "results": {"bpp": [0.2, 0.6, 2, 4], "psnr-rgb": [20, 24, 29, 33]},
    }
    out.mkdir()
    (out / "old.json").write_text(json.dumps(curve))
    specs = parse_specs(["jpeg", "webp", "png", "bitplanes"], ["jpeg:5,30,60,90", "webp:5,40,80,lossless"])
    result = evaluate(
        specs,
        ImageFolder(pictures),
        out,
        command="python evaluate.py --codecs 'a b' </script>",
        device="cpu",
        published=[out / "old.json"],
        hypothetical=True,
        learned=LearnedMetrics(notes=["lpips: absent"]),
    )
    write_report(result, out / "report.html")
    return out / "report.html"


def test_page_is_one_file_that_asks_for_nothing(pictures: Path, tmp_path: Path, bitplanes: Any) -> None:
    text = make_report(pictures, tmp_path / "out").read_text()
    shell = text[: text.index("<script>")] + text[text.rindex('<script type="application/json"') :]
    assert not re.search(r'(src|href)="https?:', shell)
    assert "default-src 'none'" in shell
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S).group(1))  # type: ignore[union-attr]
    assert data["command"].endswith("</script>")
    assert data["notes"][0] == "lpips: absent"
    assert "<title>pictures-in, 3 images</title>" in text
    assert data["versions"]["torch"]
    assert {p["codec"] for p in data["pictures"]} == {"original", "jpeg", "webp", "bitplanes"}
    jpeg = next(p for p in data["pictures"] if p["codec"] == "jpeg")
    file = tmp_path / "out" / "files" / "jpeg" / f"{jpeg['image']}-{jpeg['point']}.jpg"
    assert base64.b64decode(jpeg["src"].partition(",")[2]) == file.read_bytes()  # the real file where browsers show it
    steps = [p for p in data["pictures"] if p["progress"]]
    assert [p["point"] for p in steps if p["image"] == "photo0"] == ["segments=1", "segments=2", "segments=3"]


def test_page_in_chromium(pictures: Path, tmp_path: Path, bitplanes: Any) -> None:
    pytest.importorskip("aiohttp")
    import sys

    sys.path.insert(0, str(Path(__file__).parent))
    from browser import CHROMIUM, browser

    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (apt-get install chromium)")
    report = make_report(pictures, tmp_path / "out")
    (tmp_path / "profile").mkdir()

    async def look() -> None:
        async with browser(tmp_path / "profile") as page:
            await page.open(report)
            assert [url for url in page.requests if not url.startswith(("data:", "blob:", "file:"))] == []
            assert sum(url.startswith("file:") for url in page.requests) == 1
            await check_curves(page)
            await check_sliders(page)
            await check_print_and_dark(page, tmp_path)
            await page.open(report, width=390, height=800)  # a phone: nothing is wider than the screen
            await page.screenshot(tmp_path / "phone.png")
            too_wide = "[...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right > 391 &&"
            too_wide += " !e.closest('.scroll, svg')).map((e) => e.outerHTML.slice(0, 80))"
            assert await page.js(too_wide) == []
            assert await page.js("document.documentElement.scrollWidth") <= 390
            assert page.errors == []

    asyncio.run(look())


async def check_curves(page: Any) -> None:
    traces = "Number(document.getElementById('plot').dataset.traces)"
    drawn = "document.querySelectorAll('#plot .scatterlayer .trace').length"
    assert await page.js(traces) == await page.js(drawn) == 4  # three codecs, one estimate
    await page.js("document.querySelector('[data-codec^=Old]').click()")
    assert await page.js(traces) == await page.js(drawn) == 5  # others' mean curves are off until asked for
    assert await page.js("document.getElementById('plot').dataset.bounds") == "1"
    dashes = "Object.fromEntries(document.getElementById('plot').data.map((t) => [t.name, t.line.dash]))"
    solid = dict.fromkeys(("jpeg", "webp", "bitplanes"), "solid")
    assert await page.js(dashes) == solid | {"bitplanes (hypothetical)": "dot", "Old (published)": "dash"}
    await page.js("document.querySelector('[data-codec=jpeg]').click()")
    assert await page.js(traces) == await page.js(drawn) == 4
    await page.js("document.getElementById('measured').click()")
    assert await page.js(traces) == 4  # jpeg is back, the published curve is off
    await page.js("document.getElementById('all').click()")
    span = "document.getElementById('span').value"
    assert float(await page.js(span)) >= 1  # the first view holds most points
    title = "document.querySelector('#plot .ytitle').textContent"
    assert await page.js(title) == "PSNR (RGB, dB)"
    await page.js("metric.value = 'ssim-rgb'; metric.dispatchEvent(new Event('change'))")
    assert await page.js(title) == "SSIM (RGB)"
    await page.js("metric.value = 'psnr-rgb'; metric.dispatchEvent(new Event('change'))")
    rows = "[...document.querySelectorAll('#summary tr')]"
    row = rows + ".find((r) => r.cells[0].textContent === '%s').cells[1].textContent"
    assert await page.js(row % "jpeg") == "anchor"
    against_jpeg = await page.js(row % "webp")
    assert against_jpeg.endswith("%")
    await page.js("anchor.value = 'webp'; anchor.dispatchEvent(new Event('change'))")
    assert await page.js(row % "webp") == "anchor"
    assert await page.js("document.querySelectorAll('#lossless tbody tr').length") == 3
    names = "[...document.querySelectorAll('#%s tbody tr')].map((r) => r.cells[0].textContent)"
    assert "Old (published)" in await page.js(names % "means")  # a mean curve stands only among mean curves
    assert "Old (published)" not in await page.js(names % "summary")


async def check_sliders(page: Any) -> None:
    clip = "document.getElementById('over').style.clipPath"
    assert await page.js(clip) == "inset(0px 50% 0px 0px)"
    await page.js("wipe_ = document.getElementById('wipe'); wipe_.focus()")
    await page.key("ArrowRight", 39)  # by keyboard
    assert await page.js(clip) == "inset(0px 49% 0px 0px)"
    assert await page.js("document.getElementById('under').naturalWidth") == 64
    caption, source = "document.getElementById('stepcap').textContent", "document.getElementById('step').src"
    await page.js("document.getElementById('steps').focus()")
    before = await page.js(caption), await page.js(source)
    await page.key("End", 35)
    after = await page.js(caption), await page.js(source)
    assert "segments=3" in after[0]
    assert before[0] != after[0]
    assert before[1] != after[1]


async def check_print_and_dark(page: Any, folder: Path) -> None:
    pdf = base64.b64decode((await page.call("Page.printToPDF", printBackground=True))["data"])
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 20_000
    size = "['width', 'height'].map((side) => document.querySelector('#plot .main-svg').getBoundingClientRect()[side])"
    before = await page.js(size)
    await page.js("dispatchEvent(new Event('beforeprint'))")
    assert await page.js("document.getElementById('every').open")  # on paper nothing can be unfolded
    assert await page.js(size) == [680, 620]  # fits on the page; the text below it starts after it
    await page.js("dispatchEvent(new Event('afterprint'))")
    assert not await page.js("document.getElementById('every').open")
    assert await page.js(size) == before
    means = []
    for scheme in ("light", "dark"):
        await page.media(scheme)
        await page.screenshot(folder / f"{scheme}.png")
        means.append(float(read_image(folder / f"{scheme}.png").float().mean()))
    assert means[0] > 200
    assert means[1] < 100
