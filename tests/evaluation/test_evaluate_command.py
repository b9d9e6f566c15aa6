"""``python evaluate.py`` from its words to its files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pipelines import save_random_pipeline

from diffpress.codecs import CodecError
from diffpress.commands.evaluate import main, parser
from diffpress.data import ImageError
from diffpress.evaluation.points import parse_specs
from diffpress.evaluation.published import read_curves
from diffpress.evaluation.report.plots import plot_files
from diffpress.lightning_modules import ModelError

pytestmark = pytest.mark.filterwarnings("ignore")


def test_evaluates_a_folder(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["--codecs", "jpeg", "png", "--points", "jpeg:10,40,70,90", "--data", str(pictures), "-o", str(out)]
    assert main([*words, "--limit", "2", "--pictures", "1"]) == 0
    text = capsys.readouterr().out
    assert "| jpeg | 2 | anchor" in text
    assert (out / "report.html").is_file()
    command = json.loads((out / "results.json").read_text())["command"]
    assert command.startswith("python evaluate.py --codecs jpeg png")
    assert json.loads((out / "results.json").read_text())["images"] == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--codecs", "gif"], "unknown codec 'gif'"),
        (["--codecs", "png", "--data", "/nowhere"], "/nowhere: no such file or folder"),
        (["--codecs", "png", "--data", "kodak", "--data-dir", "/nowhere"], "download-kodak"),
        (["--codecs", "png", "--limit", "0"], "--limit must be at least 1"),
        (["--plot", "/nowhere.json"], "/nowhere.json"),
        (["--bd-range", "0.1", "--codecs", "png"], "--bd-range"),
        (["--rates", "0.1", "high", "--codecs", "png"], "--rates takes a number, not 'high'"),
        (["--device", "gpu", "--codecs", "png"], "--device must be one of auto, cpu, cuda, not 'gpu'"),
        (["--codecs", "png", "--limit", "few"], "limit"),
        (["--codecs", "png", "--quick"], "quick"),
    ],
)
def test_bad_words_are_one_sentence(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "-o", str(tmp_path / "out")]) != 0
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_lists_from_the_words_and_from_a_configuration_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("codecs: [png, webp]\nbd_range: [0.1, 1]\nrates: 0.5\nhypothetical: true\n")
    given = parser().parse_args(["--codecs", "jpeg", "--config", str(tmp_path / "c.yaml"), "--published", "a", "b"])
    assert (given.codecs, given.bd_range, given.rates) == (["jpeg"], [0.1, 1.0], [0.5])
    assert (given.published, given.hypothetical) == ([Path("a"), Path("b")], True)


def test_a_command_without_codecs_or_place_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("python evaluate.py --codecs diffc:preset=fast webp jpeg --data photos")
    assert main(["--codecs", "png"]) == 2
    assert capsys.readouterr().err == "error: -o must name the output folder, or the file for --tables and --plot\n"


def test_failures_give_a_status(pictures: Path, tmp_path: Path) -> None:
    words = ["--codecs", "jpeg", "--points", "jpeg:200", "--data", str(pictures), "-o", str(tmp_path / "out")]
    assert main(words) == 1


def test_plots_published_files(reference: Path, tmp_path: Path) -> None:
    files = [str(reference / "kodak_curves" / f"{name}.json") for name in ("webp", "vtm")]
    for suffix in (".png", ".svg"):
        assert main(["--plot", *files, "-o", str(tmp_path / f"figure{suffix}")]) == 0
        assert (tmp_path / f"figure{suffix}").stat().st_size > 5000
    assert main(["--plot", *files, "--max-bpp", "0.5", "-o", str(tmp_path / "low.svg")]) == 0
    whole, low = ((tmp_path / name).read_text() for name in ("figure.svg", "low.svg"))
    assert ">0.5<" in low
    assert ">2.0<" in whole
    assert ">2.0<" not in low
    assert main(["--plot", *files, "--max-bpp", "0.001", "-o", str(tmp_path / "no.png")]) != 0
    assert main(["--plot", *files, "--metric", "lpips", "-o", str(tmp_path / "no.png")]) != 0
    assert main(["--plot", *files, "-o", str(tmp_path / "no.xyz")]) != 0


def test_plots_own_metrics_solid_and_others_curves_dashed(tmp_path: Path) -> None:
    for name, description in (("ours", "3 images, diffpress 0.1.0"), ("theirs", "paper, table 2")):
        results = {"bpp": [0.1, 0.2, 0.4], "ssim-rgb": [0.5, 0.7, 0.8], "lpips": [0.5, 0.4, 0.3]}
        curve = {"name": name, "description": description, "results": results}
        (tmp_path / f"{name}.json").write_text(json.dumps(curve))
        for metric in ("ssim-rgb", "lpips"):
            plot_files([tmp_path / f"{name}.json"], tmp_path / f"{name}-{metric}.svg", metric)
    ours, theirs = ((tmp_path / f"{name}-lpips.svg").read_text() for name in ("ours", "theirs"))
    assert ">ours<" in ours
    assert ">theirs (published)<" in theirs
    assert "stroke-dasharray" not in ours
    assert "stroke-dasharray" in theirs


def test_reads_published_curves(reference: Path) -> None:
    kodak = {curve.codec: curve for curve in read_curves(reference / "kodak_curves")}
    assert len(kodak) == 10
    rate, quality = kodak["WebP (published)"].series("psnr-rgb")
    assert (rate[0], quality[0]) == (0.23441908094618058, 28.328423711178047)
    assert "Pillow" in kodak["WebP (published)"].published
    small = {curve.codec: curve for curve in read_curves(reference / "uqdm_imagenet64_curves.yml")}
    assert "uqdm-d (published)" in small
    assert len(small["bpg (published)"].series("psnr-rgb")[0]) == 6  # the seventh is infinite


def test_wrong_files_are_explained(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    (tmp_path / "b.json").write_text('{"name": "x", "results": {"psnr-rgb": [1]}}')
    (tmp_path / "c.yml").write_text("a: [")
    (tmp_path / "empty").mkdir()
    for name, message in [
        ("a.json", "no curves"),
        ("b.json", "no list of bpp"),
        ("c.yml", "neither"),
        ("empty", "no ."),
    ]:
        with pytest.raises(ImageError, match=message):
            read_curves(tmp_path / name)
    (tmp_path / "d.json").write_text('{"name": "x", "results": {"bpp": [1], "vmaf": [90]}}')
    with pytest.raises(ImageError, match="no psnr-rgb in these files"):
        plot_files([tmp_path / "d.json"], tmp_path / "out.png")


def test_options_of_a_codec_reach_its_model(tmp_path: Path) -> None:
    """SDXL with its refiner, in half precision, is a codec like any other; bitsback keeps its own `tile`."""
    kinds = ("sdxl", "sdxl-refiner")
    base, refiner = (save_random_pipeline(kind, tmp_path / kind) for kind in kinds)
    word = f"diffc:model={base},refiner={refiner},dtype=bfloat16,offload=none,local_files_only=true,preset=12"
    plain, spec = parse_specs([f"diffc:model={base},preset=12", word])
    codec: Any = spec.build("cpu")
    assert codec.prior.refiner is not None
    assert codec.prior.dtype == torch.bfloat16
    assert codec.fingerprint != plain.build("cpu").fingerprint
    before = spec.identity()
    assert before != plain.identity()
    save_random_pipeline("sdxl-refiner", refiner, seed=1)
    assert before != spec.identity()
    tiled: Any = parse_specs(["bitsback:tile=32,dtype=float32"])[0].build("cpu")
    assert (tiled.tile, tiled.prior.tile) == (32, 1536)
    with pytest.raises(ModelError, match=r"a model without that option .*'offload'"):
        parse_specs(["diffc:offload=layers"])[0].build("cpu")
    with pytest.raises(CodecError, match="dtype"):
        parse_specs(["png:dtype=float32"])[0].build()
    long = [one.slug for one in parse_specs([f"png:x={'y' * 300}{end}" for end in "ab"])]
    assert max(map(len, long)) < 250  # a file name, however long the folders' names are
    assert long[0] != long[1]
