"""``python evaluate.py`` from its words to its files."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pipelines import save_random_pipeline

from diffpress.codecs import CodecError
from diffpress.commands.evaluate import main, parser
from diffpress.data import ImageError
from diffpress.evaluation.kept import plot_of_files
from diffpress.evaluation.per_image import MEAN, PerImage, write_per_image
from diffpress.evaluation.points import parse_specs
from diffpress.evaluation.published import read_curves, read_published
from diffpress.evaluation.report.colours import CODECS, colours
from diffpress.lightning_modules import ModelError

pytestmark = pytest.mark.filterwarnings("ignore")


def test_evaluates_a_folder(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ["--codecs", "jpeg", "png", "--points", "jpeg:10,40,70,90", "--data", str(pictures), "-o", str(out)]
    assert main([*words, "--limit", "2", "--pictures", "1"]) == 0
    text = capsys.readouterr().out
    assert "| jpeg | 2 | anchor" in text
    assert (out / "report.html").is_file()
    written = json.loads((out / "tables.json").read_text())
    assert written["command"].startswith("python evaluate.py --codecs jpeg png")
    assert written["images"] == 2


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


def test_failures_give_a_status(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--codecs", "jpeg", "--points", "jpeg:200", "--data", str(pictures), "-o", str(tmp_path / "out")]
    assert main(words) == 1
    assert "BD-rate" not in capsys.readouterr().out  # there is no anchor


def test_plots_kept_curves(tmp_path: Path) -> None:
    """Where all images reach the rate, with a band of the mean's error."""
    for name, factor in (("jpeg", 1.0), ("avif", 0.5)):
        rates = [factor * rate for rate in (0.1, 0.4, 1.6)]
        curves = {image: {"bpp": rates, "psnr-rgb": [26.0 + k, 30, 36 + k]} for k, image in enumerate(("x", "y"))}
        write_per_image(PerImage(name, "photos", "", curves), tmp_path / "out" / "per-image" / f"{name}.json")
    lines = ["seq_name\trate_bpp\tpsnr_db"]
    lines += [f"{image}\t{rate}\t{30 + 4 * rate}" for image in "xy" for rate in (0.1, 1)]
    (tmp_path / "v5.0_image-photos.tsv").write_text("\n".join(lines))
    words = ["--plot", str(tmp_path / "out"), "--published", str(tmp_path / "v5.0_image-photos.tsv"), "-o"]
    for name, more in (("whole.svg", []), ("low.svg", ["--max-bpp", "0.5"]), ("f.pdf", []), ("f.png", [])):
        assert main([*words, str(tmp_path / name), *more]) == 0
    whole, low = ((tmp_path / name).read_text() for name in ("whole.svg", "low.svg"))
    words_drawn = {">jpeg<", ">avif<", ">Cool-chic 5.0 (published)<", ">photos, 2 images<"}
    assert words_drawn <= set(re.findall(">[^<>]+<", whole))
    assert whole.count('id="FillBetweenPolyCollection') == 3
    assert "stroke-dasharray" in whole
    assert ">1.4<" in whole
    assert ">1.4<" not in low
    for more in (["--max-bpp", "0.001"], ["--metric", "lpips"]):
        assert main([*words, str(tmp_path / "no.png"), *more]) != 0
    assert main([*words, str(tmp_path / "no.xyz")]) != 0
    mean = {"name": "x", "dataset": "photos", "results": {"bpp": [1], "psnr-rgb": [30]}}
    (tmp_path / "mean.json").write_text(json.dumps(mean))
    with pytest.raises(ImageError, match=r"x \(published\) is a mean curve"):
        plot_of_files([tmp_path / "out"], [tmp_path / "mean.json"], tmp_path / "no.svg")


def test_a_codec_has_its_colour_in_every_company() -> None:
    assert colours(["jpeg", "avif"])[1] == colours(["avif (hypothetical)", "vvc"])[0] == CODECS["avif"]
    plain, tuned, again = colours(["avif", "avif:tune=iq", "avif:tune=iq (hypothetical)"])
    assert plain != tuned == again
    assert colours(["VTM (published)"]) == colours(["VTM"])


def test_reads_published_curves(reference: Path) -> None:
    files = sorted((reference / "kodak_curves").glob("*.json"))
    kodak = {curve.codec: curve for file in files for curve in read_curves(file)}
    assert len(kodak) == 10
    rate, quality = kodak["WebP (published)"].series(MEAN, "psnr-rgb")
    assert (rate[0], quality[0]) == (0.23441908094618058, 28.328423711178047)
    assert "Pillow" in kodak["WebP (published)"].published
    small = {curve.codec: curve for curve in read_curves(reference / "uqdm_imagenet64_curves.yml")}
    assert "uqdm-d (published)" in small
    assert len(small["bpg (published)"].series(MEAN, "psnr-rgb")[0]) == 6  # the seventh is infinite


def test_wrong_files_are_explained(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[1]")
    (tmp_path / "b.json").write_text('{"name": "x", "results": {"psnr-rgb": [1]}}')
    (tmp_path / "c.yml").write_text("a: [")
    (tmp_path / "empty").mkdir()
    wrong = {"a.json": "no curves", "b.json": "no list of bpp", "c.yml": "neither", "empty": "no .json"}
    for name, message in wrong.items():
        with pytest.raises(ImageError, match=message):
            read_published([tmp_path / name], "photos", ["a"])


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
