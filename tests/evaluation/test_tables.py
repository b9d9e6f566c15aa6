"""Averages: each image's own curve first; mean curves only among themselves; published figures only on their data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from diffpress.codecs import CodecError
from diffpress.commands.evaluate import main, title
from diffpress.data import ImageError
from diffpress.evaluation.bd import bd_rate
from diffpress.evaluation.kept import tables_of_files
from diffpress.evaluation.markup import latex, markdown
from diffpress.evaluation.per_image import (
    MEAN,
    PerImage,
    at_equal_rates,
    mean_at,
    mean_curve,
    mean_delta,
    mean_lossless,
    reaching,
    read_per_image,
    read_published_points,
    write_per_image,
)
from diffpress.evaluation.published import read_published
from diffpress.evaluation.results import Curve
from diffpress.evaluation.tables import parts, summarise, summary_table, tables

EASY = {"bpp": [0.05, 0.1, 0.2, 0.4], "psnr-rgb": [30.0, 33.0, 36.0, 39.0]}
HARD = {"bpp": [0.2, 0.4, 0.8, 1.6], "psnr-rgb": [24.0, 27.0, 30.0, 33.0]}


def codec(name: str, factor: float = 1.0) -> PerImage:
    """Two images; every rate is `factor` times that of EASY and HARD."""
    curves = {
        image: {"bpp": [factor * rate for rate in one["bpp"]], "psnr-rgb": one["psnr-rgb"]}
        for image, one in (("easy", EASY), ("hard", HARD))
    }
    return PerImage(name, "photos", "python evaluate.py ...", curves, {"easy": 6.0})


def test_each_images_curve_is_interpolated_and_then_averaged() -> None:
    one = codec("a")
    mean = mean_at(one, 0.2, "psnr-rgb")
    assert mean is not None
    assert (mean.value, mean.images, mean.of) == (30.0, 2, 2)
    between = mean_at(one, 0.2 * 2**0.5, "psnr-rgb")
    assert between is not None
    assert between.value == pytest.approx(31.5)  # linear over log rate
    curve = mean_curve(one)
    assert curve is not None
    rate, quality = curve.series(MEAN, "psnr-rgb")
    other = float(np.interp(np.log(0.2), np.log(rate), quality))
    assert other == pytest.approx(27 + 3 * np.log2(0.2 / 0.125))  # 29.03 dB: why the two are never compared
    assert (rate[0], quality[0]) == (0.125, 27.0)


def test_images_that_do_not_reach_a_rate_are_counted() -> None:
    one = codec("a")
    assert reaching(one, 0.1) == {"easy"}
    assert mean_at(one, 0.1, "psnr-rgb") == mean_at(one, 0.1, "psnr-rgb", ["easy"])
    text = markdown(parts(tables([one, codec("b", 0.5)], [])))
    assert "| a | 33.00 (1 of 2 images) |" in text
    assert "| b | 0.25 | 1 | 27.97 | a | 24.97 |" in text  # where a reaches both images
    lossless = mean_lossless(one)
    assert lossless is not None
    assert (lossless.value, lossless.images) == (2.0, 1)
    assert "2.000 (1 of 2 images)" in text


def test_bd_rate_is_the_mean_of_the_images() -> None:
    delta = mean_delta(codec("a"), codec("b", 0.8))
    assert delta is not None
    assert (delta.rate, delta.images, delta.of) == (pytest.approx(-20), 2, 2)
    assert delta.over == (27.0, 36.0)  # 24 to 33 and 30 to 39 dB
    mixed = PerImage("c", "photos", "", {"easy": EASY, "hard": {"bpp": [0.1], "psnr-rgb": [20.0]}})
    some = mean_delta(codec("a"), mixed)
    assert some is not None
    assert (some.rate, some.images, some.of) == (pytest.approx(0), 1, 2)
    assert mean_delta(codec("a"), mixed, rates=(1, 2)) is None
    rows = tables([codec("a"), codec("b", 0.8)], [], anchors=["a"])["per_image"]
    expected = {"anchor": "a", "percent": -20.0, "over": [27.0, 36.0], "images": 2}
    assert rows[1]["metrics"]["psnr-rgb"]["bd_rate"] == [expected]


def test_mean_curves_have_a_table_of_their_own() -> None:
    published = mean_curve(codec("theirs", 0.5))
    assert published is not None
    fixed = {image: {"bpp": [0.1, 0.25, 0.5], "psnr-rgb": [28.0, 31.0, 34.0]} for image in ("easy", "hard")}
    for_a_rate = PerImage("made for a rate", "photos", "", fixed)
    assert at_equal_rates(for_a_rate)
    assert not at_equal_rates(codec("a"))
    data = tables([codec("a"), for_a_rate], [published], anchors=["a"])
    assert [row["codec"] for row in data["per_image"]] == ["a", "made for a rate"]
    assert [row["codec"] for row in data["mean_curves"]] == ["a", "theirs"]
    own = mean_curve(codec("a"))
    assert own is not None
    expected = bd_rate(*own.series(MEAN, "psnr-rgb"), *published.series(MEAN, "psnr-rgb"))
    (delta,) = data["mean_curves"][1]["metrics"]["psnr-rgb"]["bd_rate"]
    assert delta == {"anchor": "a", "percent": pytest.approx(expected, abs=0.01), "over": [27.0, 36.0], "images": 1}
    assert "no equal settings: made for a rate left out" in markdown(parts(data))
    assert tables([codec("a")], [])["mean_curves"] == []


def test_files_come_back(tmp_path: Path) -> None:
    write_per_image(codec("a"), tmp_path / "out" / "per-image" / "a.json")
    assert read_per_image(tmp_path / "out") == [codec("a")]
    assert read_per_image(tmp_path / "out" / "per-image" / "a.json") == [codec("a")]
    (tmp_path / "b.json").write_text("[1]")
    (tmp_path / "empty").mkdir()
    for path, message in (("b.json", "not a file of per-image"), ("none.json", "No such file"), ("empty", "no files")):
        with pytest.raises(ImageError, match=message):
            read_per_image(tmp_path / path)


def test_tables_from_kept_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, factor in (("a", 1.0), ("b", 0.8)):
        write_per_image(codec(name, factor), tmp_path / "kept" / f"{name}.json")
    words = ["--tables", str(tmp_path / "kept"), "--anchors", "a", "--rates", "0.3", "-o", str(tmp_path / "t.md")]
    assert main(words) == 0
    page = (tmp_path / "t.md").read_text()
    for line in ("| b | 32.72 |", "| b | -20.0 % (27.0 to 36.0, 2 of 2) |", "| b | 2.000 (1 of 2 images) |"):
        assert line in page
    written = json.loads((tmp_path / "t.json").read_text())
    assert written["command"].startswith("python evaluate.py --tables")
    assert written["measured_by"]["b"] == "python evaluate.py ..."
    assert main([*words[:3], "c", "-o", str(tmp_path / "t.md")]) != 0
    assert "no such curve among a, b" in capsys.readouterr().err
    write_per_image(PerImage("d", "kodak", "", {}), tmp_path / "kept" / "d.json")
    with pytest.raises(ImageError, match="several data sets, kodak and photos"):
        tables_of_files([tmp_path / "kept"], [], tmp_path / "t.md", "")


def test_tables_for_papers(tmp_path: Path) -> None:
    for name, factor in (("a_1", 1.0), ("b", 0.8)):
        write_per_image(codec(name, factor), tmp_path / "kept" / f"{name}.json")
    words = ["--tables", str(tmp_path / "kept"), "--anchors", "a_1", "--rates", "0.3", "-o"]
    assert main([*words, str(tmp_path / "t.tex")]) == 0
    tex = (tmp_path / "t.tex").read_text()
    rows = ["codec & 0.3 bpp", "\\midrule", "a\\_1 & 31.75", "b & 32.72", "\\bottomrule"]
    assert "\\begin{tabular}{lr}\n\\toprule\n" + "\n".join(rows) in tex.replace(" \\\\\n", "\n")
    assert "b & -20.0 \\% (27.0 to 36.0, 2 of 2) \\\\" in tex
    assert (tmp_path / "t.json").is_file()
    assert main([*words, str(tmp_path / "t.tsv")]) == 0
    lines = [line.split("\t") for line in (tmp_path / "t.tsv").read_text().splitlines()]
    assert lines[0] == ["codec", "image", "bpp", "psnr-rgb"]
    assert lines[1] == ["a_1", "easy", "0.05000", "30.00000"]
    assert lines[5] == ["a_1", "easy", "6.00000", ""]
    assert len(lines) == 1 + 2 * (2 * 4 + 1)
    assert latex(["a & b: 5 %", [["x^2"], ["{\\}"]]]).startswith("a \\& b: 5 \\%\n\n\\begin{tabular}{l}")


def test_metrics_that_fall_as_quality_rises() -> None:
    rates, distances = [0.1, 0.2, 0.4, 0.8], [4.0, 3.0, 2.0, 1.0]
    curves = [{"bpp": [factor * rate for rate in rates], "butteraugli": distances} for factor in (1, 0.5)]
    a, b = (PerImage("", "", "", {"x": curve}) for curve in curves)
    delta = mean_delta(a, b, "butteraugli")
    assert delta is not None
    assert (delta.rate, delta.quality, delta.over) == (pytest.approx(-50), pytest.approx(-1), (1.0, 4.0))


def test_a_summary_without_anchor_has_no_columns_for_one() -> None:
    (head, row) = summary_table(summarise([Curve("x")], [], ""), "")
    assert not any("BD" in title for title in head)
    assert len(head) == len(row)


def test_published_curves_are_refused_beside_other_images(tmp_path: Path) -> None:
    curve = {"name": "VTM", "results": {"bpp": [0.1, 0.2, 0.4], "psnr-rgb": [28, 31, 34]}}
    for folder, extra in (("kodak_curves", {}), ("named", {"dataset": "mine"}), ("nameless", {})):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "vtm.json").write_text(json.dumps(curve | extra))
    kodak = [f"kodim{k:02d}" for k in range(1, 25)]
    assert [c.codec for c in read_published([tmp_path / "kodak_curves"], "kodak", kodak)[1]] == ["VTM (published)"]
    assert len(read_published([tmp_path / "named"], "mine", ["x"])[1]) == 1
    for folder, data, images, message in (
        ("kodak_curves", "photos", ["x"], "curves of kodak, which cannot stand beside photos"),
        ("kodak_curves", "kodak", kodak[:3], "means over all 24 images of kodak, not over 3"),
        ("named", "kodak", kodak, "curves of mine"),
        ("nameless", "photos", ["x"], "a data set that it does not name"),
    ):
        with pytest.raises(ImageError, match=message) as caught:
            read_published([tmp_path / folder], data, images)
        assert "\n" not in str(caught.value)


def test_published_points_are_averaged_as_ours(tmp_path: Path) -> None:
    lines = ["lmbda\tseq_name\tn_pixels\tloss\tpsnr_db\trate_bpp"]
    for image, one in (("easy", EASY), ("hard", HARD)):
        lines += [f"1\t{image}\t9\t1\t{q}\t{r}" for r, q in zip(one["bpp"], one["psnr-rgb"], strict=True)][::-1]
    path = tmp_path / "v5.0_image-photos.tsv"
    path.write_text("\n".join(lines))
    assert read_published_points(path).codec == "Cool-chic 5.0 (published)"
    (points,), means = read_published([path], "photos", ["easy", "hard", "new"])
    assert means == []
    mean = mean_at(points, 0.2, "psnr-rgb")
    assert mean is not None
    assert (mean.value, mean.images, mean.of) == (30.0, 2, 3)  # the missing image is said
    with pytest.raises(ImageError, match="points of photos, none of kodak"):
        read_published([path], "kodak", ["kodim01"])
    path.write_text("a\tb\n1\t2\n")
    with pytest.raises(ImageError, match="not a table with columns seq_name"):
        read_published_points(path)


def test_cool_chic_on_kodak(reference: Path) -> None:
    kodak = [f"kodim{k:02d}" for k in range(1, 25)]
    points, _ = read_published([reference / "coolchic"], "kodak", kodak)  # its other files are of CLIC
    assert [one.codec for one in points] == ["Cool-chic 4.2 (published)", "Cool-chic 5.0 (published)"]
    mean = mean_at(points[1], 0.25, "psnr-rgb")
    assert mean is not None
    assert (round(mean.value, 2), mean.images) == (31.98, 24)


def test_a_wrong_anchor_is_one_sentence(tmp_path: Path) -> None:
    write_per_image(codec("a"), tmp_path / "a.json")
    with pytest.raises(CodecError, match="--anchors x: no such curve among a"):
        tables_of_files([tmp_path / "a.json"], [], tmp_path / "t.md", "", anchors=["x"])


def test_folders_named_for_a_split_say_of_what() -> None:
    assert title("/data/photos/val", "val") == "photos/val"
    assert title("/data/photos", "photos") == "photos"
    assert title("kodak", "kodak") == "kodak"
