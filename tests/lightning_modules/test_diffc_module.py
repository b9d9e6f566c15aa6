"""DiffCModule: trainer.predict writes the files that compress.py writes, in one process or two; captions by BLIP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from pipelines import save_random_pipeline

from diffpress import resource
from diffpress.codecs import container, get_codec
from diffpress.commands.compress import main as compress
from diffpress.data import ImageData, ImageFolder, save_image
from diffpress.lightning_modules import load_model
from diffpress.lightning_modules.diffc import DiffCModule, image_batches
from helpers import ROOT, synthetic_photo

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_pipeline("sd15", tmp_path_factory.mktemp("module") / "sd15")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, width in enumerate((32, 48, 32, 32)):
        rng = torch.Generator().manual_seed(number)
        coarse = torch.rand(1, 3, 4, 4, generator=rng)
        image = torch.nn.functional.interpolate(coarse, size=(32, width), mode="bilinear")[0].mul(255).byte()
        save_image(image, folder / f"{number}.png")
    return folder


def module_for(model: Path, out: Path, **more: Any) -> DiffCModule:
    return DiffCModule(str(model), str(out), segments=4, codec_options={"preset": 12, "flow_steps": 2}, **more)


def trainer(**more: Any) -> lightning.Trainer:
    return lightning.Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
                             enable_model_summary=False, enable_checkpointing=False, **more)  # fmt: skip


def test_predict_writes_the_codecs_files(model: Path, photos: Path, tmp_path: Path) -> None:
    module = module_for(model, tmp_path, prompts={"2": "a boat"})
    batches = image_batches(photos, batch_size=2)
    assert [[name for name, _ in batch] for batch in batches] == [["0", "2"], ["1"], ["3"]]
    trainer().predict(module, batches)
    codec = get_codec("diffc", model=load_model(model, device="cpu"), preset=12, flow_steps=2)
    images = dict(ImageFolder(photos)[number] for number in range(4))
    for name in images:
        stream = container.read((tmp_path / f"{name}.dfc").read_bytes(), codec)
        assert len(stream.segments) == 4
        assert (stream.header.height, stream.header.width) == tuple(images[name].shape[1:])
        assert bool(stream.header.params[0] & 128) == (name == "2")
    assert (tmp_path / "1.dfc").read_bytes() == container.write(codec.encode(images["1"], segments=4), codec)
    with pytest.raises(FileExistsError, match="use force"):
        trainer().predict(module, batches)


def test_the_data_modules_batch_size_batches_images_of_one_size(model: Path, photos: Path, tmp_path: Path) -> None:
    data = [ImageData(test=str(photos), batch_size=size) for size in (1, 3)]
    for part, name in zip(data, ("single", "batched"), strict=True):
        trainer().predict(module_for(model, tmp_path / name), datamodule=part)
    assert [[name for name, _ in batch] for batch in data[1].predict_dataloader()] == [["0", "2", "3"], ["1"]]
    codec = get_codec("diffc", model=load_model(model, device="cpu"), preset=12, flow_steps=2)
    for file in sorted((tmp_path / "single").iterdir()):
        other = tmp_path / "batched" / file.name
        single, batched = (container.read(path.read_bytes(), codec) for path in (file, other))
        assert single.header == batched.header
        assert [len(segment) for segment in single.segments] == [len(segment) for segment in batched.segments]
        difference = codec.decode(single).int() - codec.decode(batched).int()
        assert float(difference.abs().float().mean()) < 1  # a batch's sums are rounded differently


def test_test_step_logs_rate_and_scores(model: Path, photos: Path, tmp_path: Path) -> None:
    module = module_for(model, tmp_path)
    (figures,) = trainer().test(module, image_batches(photos, batch_size=3), verbose=False)
    assert figures["test/bpp"] > 0
    assert {"test/psnr-rgb", "test/ssim-rgb"} <= set(figures)


TWO_PROCESSES = """
import json, sys
import lightning
from diffpress.data import ImageData
from diffpress.lightning_modules.diffc import DiffCModule, image_batches

model, photos, out = sys.argv[1:]
module = DiffCModule(model, out, segments=2)
trainer = lightning.Trainer(accelerator="cpu", devices=2, strategy="ddp_fork", logger=False, enable_progress_bar=False,
                            enable_model_summary=False, enable_checkpointing=False)
batched = trainer.test(module, image_batches(photos, 2), verbose=False)
padded = trainer.test(module, datamodule=ImageData(test=photos), verbose=False)
trainer.predict(module, image_batches(photos, 3), return_predictions=False)  # one batch: the other process has none
print(json.dumps([batched, padded]))
"""


def test_two_processes_average_what_one_averages(tiny_prior: Path, tmp_path: Path) -> None:
    """Three images: in batches of two a process has two of them, one by one Lightning gives one image to both."""
    photos, script = tmp_path / "photos", tmp_path / "two.py"
    for number in range(3):
        save_image(synthetic_photo(16, 24, number), photos / f"{number}.png")
    (expected,) = trainer().test(DiffCModule(str(tiny_prior), segments=2), image_batches(photos, 2), verbose=False)
    script.write_text(TWO_PROCESSES)
    command = [sys.executable, str(script), str(tiny_prior), str(photos), str(tmp_path / "out")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PL_TORCH_DISTRIBUTED_BACKEND": "gloo"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert result.returncode == 0, result.stderr
    assert {"test/bpp", "test/psnr-rgb"} <= set(expected)
    for (figures,) in json.loads(result.stdout.splitlines()[-1]):
        assert figures == pytest.approx(expected, rel=1e-6)
    assert len(list((tmp_path / "out").iterdir())) == 3


@pytest.mark.slow
def test_two_processes_write_what_one_writes(model: Path, photos: Path, tmp_path: Path) -> None:
    for devices in (1, 2):
        command = [
            sys.executable, str(ROOT / "train.py"), "predict", "-c", str(resource("configs/diffc/predict.yaml")),
            "--data.test", str(photos), "--model.init_args.model", str(model),
            "--model.init_args.out", str(tmp_path / str(devices)), "--model.init_args.bpp", "1.0",
            "--model.init_args.codec_options", '{"preset": "12"}',
            "--trainer.accelerator", "cpu", "--trainer.devices", str(devices),
        ]  # fmt: skip
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
        assert result.returncode == 0, result.stderr
    files = [{file.name: file.read_bytes() for file in (tmp_path / str(n)).iterdir()} for n in (1, 2)]
    assert files[0] == files[1]
    assert len(files[0]) == 4


def test_caption_model_that_cannot_be_had_is_one_sentence(
    model: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The hub is asked once, and transformers, which would try long, is not."""
    from huggingface_hub import errors

    asked: list[bool] = []

    def snapshot(name: str, *, local_files_only: bool, **_: Any) -> None:
        asked.append(local_files_only)
        raise errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    monkeypatch.setattr("transformers.BlipProcessor.from_pretrained", lambda *_, **__: pytest.fail("went on"))
    words = [str(photos / "0.png"), "-o", str(tmp_path / "out"), "--device", "cpu", "--model", str(model)]
    assert compress([*words, "--caption-model", "some/blip"]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: there is no folder 'some/blip', the Hugging Face hub's model of that name is not")
    assert "\n" not in error
    assert compress([*words, "--caption-model", "some/blip", "--local-files-only"]) == 2
    assert asked == [False, True]


@pytest.mark.slow
def test_captions_by_a_blip_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    from diffpress.commands.captions import prompts_by

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", "a", "boat", "door", "red"]
    vocabulary = {word: number for number, word in enumerate(words)}
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = size | {"vocab_size": len(words), "bos_token_id": 5, "sep_token_id": 3, "eos_token_id": 3,
                   "pad_token_id": 0, "encoder_hidden_size": 16}  # fmt: skip
    config = BlipConfig(text_config=text, vision_config=size | {"image_size": 32, "patch_size": 16})
    BlipForConditionalGeneration(config).save_pretrained(tmp_path)
    images = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(images, BertTokenizer(vocab=vocabulary)).save_pretrained(tmp_path)
    prompt_of = prompts_by(str(tmp_path), "cpu", True)
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    assert isinstance(prompt_of(Path("x.png"), image), str)
    assert prompt_of(Path("x.png"), image) == prompt_of(Path("x.png"), image)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(tmp_path))
    assert prompts_by("some/blip", "cpu")(Path("x.png"), image) == prompt_of(Path("x.png"), image)
