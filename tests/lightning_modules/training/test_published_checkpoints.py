"""Published checkpoints: the form as distributed, and the reference figures of uqdm-tiny."""

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from diffpress.data import read_image
from diffpress.data.tiling import tile
from diffpress.lightning_modules import ModelError, load_model
from diffpress.lightning_modules.diffusion import gaussian
from diffpress.lightning_modules.diffusion import pixels as pixel_likelihood
from diffpress.lightning_modules.training.export import export
from diffpress.lightning_modules.training.published_checkpoints import load_published, our_config
from diffpress.lightning_modules.uqdm import UQDM, load_uqdm

CONFIG = {
    "restore_ckpt": "checkpoint.pt",
    "model": {
        "n_timesteps": 3, "prior_type": "logistic", "learned_prior_scale": True, "base_prior_scale": "forward_kernel",
        "noise_schedule": "learned_linear", "fix_gamma_max": False, "gamma_min": -9.0, "gamma_max": 5.0,
        "attention_everywhere": False, "use_fourier_features": True, "ema_rate": 0.99, "n_attention_heads": 1,
        "n_channels": 3, "vocab_size": 256, "embedding_dim": 8, "n_blocks": 1, "norm_groups": 4, "dropout_prob": 0.0,
    },
}  # fmt: skip


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A random model in the published form, its averaged tensors one larger than the raw ones."""
    torch.manual_seed(0)
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    model = UQDM.from_config(our_config(CONFIG))
    tensors = [p.detach() + 1.0 for p in [*model.network.parameters(), *model.schedule.parameters()]]
    optimizer = {"param_groups": [{"lr": np.float64(2e-4)}]}  # as distributed: one NumPy number among the settings
    torch.save(
        {"model": model.network.state_dict(), "ema": {"shadow_params": tensors}, "optimizer": optimizer, "step": 5},
        folder / "checkpoint.pt",
    )
    return folder


def test_both_forms_load_and_are_different_models(published: Path) -> None:
    averaged, raw = load_model(published, device="cpu"), load_uqdm(published, averaged=False)
    for (name, a), b in zip(averaged.network.named_parameters(), raw.network.parameters(), strict=True):
        torch.testing.assert_close(a, b + 1.0, msg=name)
    torch.testing.assert_close(raw.log_snrs().detach(), torch.linspace(-5.0, 9.0, 4))
    assert float(averaged.schedule.w.detach()) == 15.0
    assert float(averaged.schedule.b.detach()) == -8.0
    assert averaged.fingerprint != raw.fingerprint
    assert averaged.n_steps == 3


def test_export_to_our_form_keeps_every_weight(published: Path, tmp_path: Path) -> None:
    export(published, tmp_path / "ours")
    ours, theirs = load_uqdm(tmp_path / "ours"), load_published(published, UQDM)
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in theirs.state_dict().items())
    assert not list((tmp_path / "ours").glob("*.pt"))


def test_tensors_that_do_not_fit_are_refused(published: Path) -> None:
    checkpoint = {"model": {}, "ema": {"shadow_params": [torch.zeros(3)]}}
    torch.save(checkpoint, published / "checkpoint.pt")
    with pytest.raises(ModelError, match="do not fit"):
        load_uqdm(published)


def change_config(folder: Path, **changes: object) -> None:
    """Overwrite entries of the model's configuration in a published folder; None removes one."""
    config = json.loads((folder / "config.json").read_text())
    config["model"] = {key: value for key, value in (config["model"] | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def ours(folder: Path, **changes: object) -> None:
    """Make a published folder one of our form, then overwrite entries of its configuration."""
    export(folder, folder)
    (folder / "checkpoint.pt").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "junk bytes": (lambda f: (f / "checkpoint.pt").write_bytes(b"junk" * 50), "checkpoint.pt is damaged, or no check"),
    "empty": (lambda f: cut(f / "checkpoint.pt", 0.0), "checkpoint.pt is damaged, or no checkpoint"),
    "truncated": (lambda f: cut(f / "checkpoint.pt", 0.7), "checkpoint.pt is damaged, or no checkpoint"),
    "a pickled object": (lambda f: torch.save(Path("x"), f / "checkpoint.pt"), "checkpoint.pt is damaged, or no check"),
    "a list": (lambda f: torch.save([1, 2], f / "checkpoint.pt"), "checkpoint.pt do not fit"),
    "no averages": (lambda f: torch.save({"model": {}}, f / "checkpoint.pt"), "do not fit .*'ema' is missing"),
    "missing": (lambda f: (f / "checkpoint.pt").unlink(), "checkpoint.pt is missing"),
    "other weights": (lambda f: change_config(f, n_blocks=2), "do not fit the configuration"),
    "other widths": (lambda f: change_config(f, embedding_dim=16), "do not fit the configuration"),
    "impossible width": (lambda f: change_config(f, embedding_dim=9), "describes no published UQDM"),
    "wrong type": (lambda f: change_config(f, n_timesteps="four"), "describes no published UQDM"),
    "entry missing": (lambda f: change_config(f, n_channels=None), "'n_channels' is missing"),
    "noise_schedule": (lambda f: change_config(f, noise_schedule="cosine"), "unknown noise_schedule 'cosine'"),
    "prior_type": (lambda f: change_config(f, prior_type="laplace"), "unknown prior_type 'laplace'"),
    "base_prior_scale": (lambda f: change_config(f, base_prior_scale="kernel"), "unknown base_prior_scale 'kernel'"),
    "ours, truncated": (lambda f: (ours(f), cut(f / "model.safetensors", 0.7)), "model.safetensors is damaged"),
    "ours, missing": (lambda f: (ours(f), (f / "model.safetensors").unlink()), "model.safetensors is missing"),
    "ours, other weights": (lambda f: ours(f, learned_prior_scale=False), "do not fit its configuration"),
    "ours, base_prior": (lambda f: ours(f, base_prior="laplace"), "unknown base_prior 'laplace'"),
    "ours, unknown entry": (lambda f: ours(f, colour="red"), "describes no UQDM .*colour"),
    "ours, no network": (lambda f: ours(f, network={"widths": 3}), "describes no UQDM"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_unusable_folders_are_one_sentence(published: Path, name: str) -> None:
    damage, sentence = DAMAGES[name]
    damage(published)
    with pytest.raises(ModelError, match=sentence) as caught:
        load_model(published, device="cpu")
    assert str(published) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_gaussian_base_prior_has_two_published_names(published: Path) -> None:
    for name in ("gaussian", "normal"):
        change_config(published, prior_type=name, base_prior_scale="posterior")
        model = load_model(published, device="cpu")
        assert (model.base_prior, model.base_prior_scale) == ("gaussian", "posterior")
    change_config(published, base_prior_scale=None)
    assert load_model(published, device="cpu").base_prior_scale == "forward_kernel"


def authors_noise(step: int, draw: Callable[..., torch.Tensor]) -> torch.Tensor:
    """What the published evaluation with seed 0 draws, the same for every image: z_1 (step 0, normal), dithers."""
    return draw((1, 3, 64, 64), generator=torch.Generator().manual_seed(hash((0, step)) % 2**32))


def authors_chain(model: UQDM, x: torch.Tensor) -> list[torch.Tensor]:
    """The latents of the published evaluation: its z_1, and the error of its own quantiser in place of fresh noise."""
    latents = [authors_noise(0, torch.randn).expand_as(x)]
    for step, (t, s) in enumerate(pairwise(model.log_snrs(x.dtype)), start=1):
        mean, std = gaussian.posterior(latents[-1], x, s, t)
        width, dither = math.sqrt(12.0) * std, authors_noise(step, torch.rand) - 0.5
        base = model.step_prior(latents[-1], t.expand(len(x)), s.expand(len(x))).mean
        latents.append(base + width * (torch.round((mean - base) / width + dither) - dither))
    return latents


def like_its_authors(shared: Path, form: str, monkeypatch: pytest.MonkeyPatch) -> UQDM:
    model = load_uqdm(shared / "reference" / "uqdm-tiny", averaged=form == "averaged")
    monkeypatch.setattr(model, "chain", lambda x, start: authors_chain(model, x))
    return model


def measure(model: UQDM, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """bpd per image, mean bpd per step, mean squared error of the denoised image after every number of steps."""
    totals, steps, errors = [], [], []
    for batch in images.split(8):
        with torch.no_grad():
            cost = model.nelbo(batch)
        totals.append(cost.total)
        steps.append(torch.stack([cost.prior, *cost.steps.T, cost.reconstruction], 1))
        last = model.reconstruct(cost.latents[-1], model.n_steps, "denoise")
        x_hat = torch.cat([pixel_likelihood.from_bin_centres(cost.x_hat), last[None]]).float()
        errors.append((x_hat - batch.float()).square().mean((2, 3, 4)))
    return torch.cat(totals), torch.cat(steps).mean(0), torch.cat(errors, 1).mean(1)


def reference_images(shared: Path, name: str, count: int) -> torch.Tensor:
    if name == "imagenet64":
        data = np.load(shared / "data" / "imagenet64" / "val_data.npz")["data"][:count]
        return torch.from_numpy(data.reshape(-1, 3, 64, 64))
    photos = (read_image(shared / "data" / "kodak" / f"{photo}.png") for photo in ("kodim05", "kodim20"))
    return torch.cat([tile(photo, 64)[::4] for photo in photos])[:count]


def check_bpd(ours: torch.Tensor, theirs: list[float]) -> None:
    """As the authors, image by image.  Where rounding falls the other way in a step, the rest of a chain differs."""
    difference = (ours / torch.tensor(theirs) - 1).abs()
    assert difference.median() < 1e-4
    assert difference.max() < 1e-2


@pytest.mark.parametrize("form", ["published_loader", "averaged"])
def test_published_tiny_gives_its_authors_bpd_on_four_images(
    shared: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = json.loads((shared / "reference" / "uqdm_tiny_expected.json").read_text())[form]["imagenet64"]
    model = like_its_authors(shared, form, monkeypatch)
    bpd, _, _ = measure(model, reference_images(shared, "imagenet64", 4))
    check_bpd(bpd, expected["bpd_per_image"][:4])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["published_loader", "averaged"])
@pytest.mark.parametrize(("data", "count"), [("imagenet64", 64), ("kodak", 48)])
def test_published_tiny_gives_its_authors_figures(
    shared: Path, form: str, data: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = json.loads((shared / "reference" / "uqdm_tiny_expected.json").read_text())[form][data]
    model = like_its_authors(shared, form, monkeypatch)
    bpd, steps, errors = measure(model, reference_images(shared, data, count))
    check_bpd(bpd, expected["bpd_per_image"])
    assert float(bpd.mean()) == pytest.approx(expected["bpd_mean"], rel=5e-4)
    assert steps.tolist() == pytest.approx(expected["bpd_per_step_mean"], rel=2e-3, abs=5e-6)
    *theirs, lossless = expected["mse_denoise_per_step_mean"]
    assert lossless == 0.0
    assert errors.tolist() == pytest.approx(theirs, rel=5e-3, abs=5e-5)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["published_loader", "averaged"])
def test_published_tiny_gives_its_authors_flow_reconstructions(
    shared: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = json.loads((shared / "reference" / "uqdm_tiny_expected.json").read_text())[form]["imagenet64"]
    model = like_its_authors(shared, form, monkeypatch)
    images = reference_images(shared, "imagenet64", 16)
    with torch.no_grad():
        latents = model.chain(pixel_likelihood.to_bin_centres(images), None)
        decoded = [model.reconstruct(z, sent, "flow") for sent, z in enumerate(latents)]
    errors = [float((image.float() - images.float()).square().mean()) for image in decoded]
    *theirs, lossless = expected["mse_flow_per_step_mean_first16"]
    assert lossless == 0.0
    assert errors == pytest.approx(theirs, rel=5e-3, abs=5e-5)
