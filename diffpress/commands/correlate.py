"""``python -m diffpress.commands.correlate FOLDER``: which metric ranks images as people do (PIPAL layout)."""

from __future__ import annotations

from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser
from rich.console import Console
from rich.progress import Progress

from ..codecs import CodecError
from ..evaluation.correlation import correlate, latent_distance, psnr_metric, read_opinions
from ..evaluation.metrics.learned import SET_METRICS, load_metrics
from ..lightning_modules import load_model
from .errors import UsageError, run


def parser() -> ArgumentParser:
    """The command line."""
    p = ArgumentParser(
        prog="correlate", exit_on_error=False, description="Spearman correlation of metrics with opinion scores."
    )
    p.add_argument("folder", type=Path, help="Train_Ref/, Train_Label/ and folders of distorted images, as in PIPAL")
    p.add_argument("--metrics", nargs="*", default=["lpips", "dists"], help="learned metrics to include")
    p.add_argument("--model", type=str | None, help="latent model whose autoencoder's distance is included")
    p.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    return p


def main(args: list[str] | None = None) -> int:
    """Print one line per metric; returns the exit status."""

    def action() -> int:
        try:
            a = parser().parse_args(args)
        except ArgumentError as error:
            raise UsageError(str(error)) from None
        for name in set(a.metrics) & set(SET_METRICS):
            raise CodecError(f"{name} scores sets of images, and opinions are about one")
        opinions = read_opinions(a.folder)
        learned = load_metrics(a.metrics, a.device)
        metrics = {"psnr": psnr_metric, **learned.image}
        if a.model:
            metrics["latent distance"] = latent_distance(load_model(a.model, device=a.device))
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("images", total=len(opinions))
            result = correlate(opinions, metrics, lambda: bar.advance(task))
        print(f"{len(opinions)} images, |Spearman| with their opinion scores")
        for name, value in result.items():
            print(f"{name:16} {value:.4f}")
        for note in learned.notes:
            print(note)
        return 0

    return run(action)


if __name__ == "__main__":
    raise SystemExit(main())
