"""Training crops are a function of (seed, index); the data module resumes where it was."""

from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch.callbacks import ModelCheckpoint

from diffpress.data import CropSource, FixedCrops, ImageData, ImageError, RandomCrops, Source, save_image


def photos(count: int, side: int = 80) -> list[np.ndarray]:
    return list(np.random.default_rng(count).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def test_sample_depends_on_seed_and_index_only() -> None:
    sources = [CropSource(photos(3), 2.0, downscale=2.0), CropSource(photos(4), 1.0)]
    one, two = RandomCrops(sources, 32, 10, seed=1), RandomCrops(sources, 32, 99, seed=1)
    torch.rand(3)  # the global state plays no part
    assert torch.equal(one[7], two[7])
    assert one[7].shape == (3, 32, 32)
    assert one[7].dtype == torch.uint8
    assert not torch.equal(one[7], one[8])
    assert not torch.equal(one[7], RandomCrops(sources, 32, 10, seed=2)[7])
    assert torch.equal(one[10**12], two[10**12])


def test_sources_are_mixed_by_weight() -> None:
    dark, bright = [np.zeros((40, 40, 3), np.uint8)], [np.full((40, 40, 3), 255, np.uint8)]
    data = RandomCrops([CropSource(dark, 3.0), CropSource(bright, 1.0)], 16, 2000)
    share = sum(int(data[i][0, 0, 0] == 255) for i in range(2000)) / 2000
    assert abs(share - 0.25) < 0.03


def test_crops_keep_grey_levels_and_cover_scales() -> None:
    ramp = np.broadcast_to(np.arange(200, dtype=np.uint8)[None, :, None], (200, 200, 3)).copy()
    data = RandomCrops([CropSource([ramp], downscale=4.0)], 32, 300)
    slopes = []
    for index in range(300):
        crop = data[index][0].float()
        slope = max((crop[:, -1] - crop[:, 0]).abs().max(), (crop[-1] - crop[0]).abs().max()) / 31
        slopes.append(float(slope))  # grey levels per pixel = factor of the downscaling
    assert min(slopes) == pytest.approx(1.0, abs=0.05)
    assert max(slopes) == pytest.approx(4.0, rel=0.1)
    assert sum(slope < 1.02 for slope in slopes) > 60  # the native share


def test_validation_crops_are_fixed_and_whole_when_they_fit() -> None:
    whole = photos(5, 32)
    data = FixedCrops(whole, 32)
    assert len(data) == 5
    for index in range(5):
        assert torch.equal(data[index], torch.from_numpy(whole[index]).permute(2, 0, 1))
    with pytest.raises(IndexError):
        data[5]


def test_a_tenth_is_held_out_where_no_validation_folder_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(21):  # each of its own grey, so that a crop tells its photo
        save_image(torch.full((3, 20, 20), number, dtype=torch.uint8), tmp_path / f"{number:02d}.png")
    with caplog.at_level("INFO"):
        data = ImageData(str(tmp_path), crop_size=16)
        data.setup("fit")
    assert "2 of 21 photos are held out for validation" in caplog.text
    assert data.train_data is not None
    assert data.val_data is not None
    assert [int(data.val_data[index][0, 0, 0]) for index in range(len(data.val_data))] == [9, 19]
    trained = {int(data.train_data[index][0, 0, 0]) for index in range(400)}
    assert trained == set(range(21)) - {9, 19}
    again = ImageData(str(tmp_path), crop_size=16)
    again.setup("validate")  # the photos that the training run left out
    assert again.val_data is not None
    assert torch.equal(again.val_data[1], data.val_data[1])
    named = ImageData(str(tmp_path), val=str(tmp_path), crop_size=16)
    named.setup("fit")
    assert named.train_data is not None
    assert len(named.train_data.sources[0].photos) == 21


def test_a_folder_alone_is_cropped_at_its_own_scale_and_shrunk(tmp_path: Path) -> None:
    ramp = torch.arange(200, dtype=torch.uint8).expand(3, 200, 200).contiguous()
    for number in range(2):
        save_image(ramp, tmp_path / f"{number}.png")
    data = ImageData(str(tmp_path), crop_size=32)
    data.setup("fit")
    assert data.train_data is not None
    crops = [data.train_data[index][0].float() for index in range(300)]
    slopes = [float(max((c[:, -1] - c[:, 0]).abs().max(), (c[-1] - c[0]).abs().max()) / 31) for c in crops]
    assert max(slopes) == pytest.approx(3.0, rel=0.1)  # grey levels per pixel = factor of the downscaling
    assert 0.4 < sum(slope < 1.02 for slope in slopes) / 300 < 0.6


def test_photos_that_cannot_be_used_are_left_out_or_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_image(torch.zeros(3, 40, 60, dtype=torch.uint8), tmp_path / "large.png")
    data = ImageData(str(tmp_path), crop_size=32)
    with pytest.raises(ImageError, match="one photo to train on and none to hold out"):
        data.setup("fit")
    for number in range(3):
        save_image(torch.zeros(3, 30, 60, dtype=torch.uint8), tmp_path / f"small{number}.png")
    data = ImageData(str(tmp_path), val=str(tmp_path), crop_size=32)
    with caplog.at_level("INFO"):
        data.setup("fit")
    assert "3 of 4 photos" in caplog.text
    assert data.train_data is not None
    assert len(data.train_data.sources[0].photos) == 1
    with pytest.raises(ImageError, match=r"crops of 64 pixels fit in no photo of .* a shorter side of 40"):
        ImageData(str(tmp_path), val=str(tmp_path), crop_size=64).setup("fit")
    with pytest.raises(ImageError, match="no training images"):
        ImageData().setup("fit")


def test_small_photos_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        RandomCrops([CropSource(photos(1, 20))], 32, 1)


class Recorder(lightning.LightningModule):
    """Remembers a digest of every training batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[int] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        assert batch.dtype == torch.uint8
        self.seen.append(int((batch.long() * torch.arange(batch.numel()).reshape(batch.shape)).sum()))
        return self.weight.sum()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(folder: Path, photo_folder: Path, max_steps: int, ckpt: str | None = None, **options: Any) -> list[int]:
    settings = {"batch_size": 4, "num_workers": 0} | options
    data = ImageData(
        [Source(str(photo_folder), 1.0, 2.0)], str(photo_folder), crop_size=16, samples_per_epoch=20, **settings
    )
    module = Recorder()
    saver = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = lightning.Trainer(
        max_steps=max_steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[saver],
    )
    trainer.fit(module, data, ckpt_path=ckpt)
    return module.seen


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*Checkpoint directory.*")
def test_resumed_run_sees_the_batches_of_an_uninterrupted_one(tmp_path: Path, photo_folder: Path) -> None:
    whole = fit(tmp_path / "a", photo_folder, 13)  # 5 batches an epoch
    assert len(set(whole)) == 13
    for stop in (3, 5, 7):  # within the first epoch, at its end, within the second
        rest = fit(tmp_path / "b", photo_folder, 13, ckpt=str(tmp_path / "a" / f"step={stop}.ckpt"))
        assert rest == whole[stop:], f"resumed after {stop}"


@pytest.mark.filterwarnings("ignore:.*Checkpoint directory.*")
def test_workers_do_not_change_the_batches(tmp_path: Path, photo_folder: Path) -> None:
    whole = fit(tmp_path / "a", photo_folder, 7)
    assert fit(tmp_path / "b", photo_folder, 7, num_workers=2) == whole
    assert fit(tmp_path / "c", photo_folder, 7, str(tmp_path / "a" / "step=3.ckpt"), num_workers=1) == whole[3:]


def test_loader_without_a_trainer_counts_epochs(photo_folder: Path) -> None:
    data = ImageData(str(photo_folder), crop_size=16, batch_size=4, samples_per_epoch=8)
    data.setup("fit")
    loader = data.train_dataloader()
    first, again = torch.cat(list(loader)), torch.cat(list(loader))
    loader.sampler.set_epoch(1)
    assert torch.equal(first, again)
    assert not torch.equal(first, torch.cat(list(loader)))


def test_devices_share_the_stream(photo_folder: Path) -> None:
    from diffpress.data.module import ResumableLoader

    data = ImageData(str(photo_folder), crop_size=16, samples_per_epoch=16)
    data.setup("fit")
    assert data.train_data is not None
    one = torch.cat(list(ResumableLoader(data.train_data, 8, 0, 1, lambda: 1)))
    two = [torch.cat(list(ResumableLoader(data.train_data, 4, rank, 2, lambda: 1))) for rank in (0, 1)]
    assert torch.equal(torch.stack(two, 1).flatten(0, 1), one)


def test_configuration_file_form(photo_folder: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(ImageData, "data")
    sources = [{"path": str(photo_folder), "weight": 2.0, "downscale": 3.0}, {"path": "imagenet64"}]
    options = parser.parse_object({"data": {"train": sources, "val": str(photo_folder), "crop_size": 48}})
    data = parser.instantiate(options).data
    assert data.train_sources == [Source(str(photo_folder), 2.0, 3.0), Source("imagenet64")]
    assert data.crop_size == 48


def test_whole_test_images(photo_folder: Path) -> None:
    data = ImageData(test=str(photo_folder))
    data.setup("test")
    name, image = next(iter(data.test_dataloader()))
    assert name == "photo0"
    assert image.shape == (3, 80, 120)
