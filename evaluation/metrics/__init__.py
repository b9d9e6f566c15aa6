"""Rate and quality of decoded images: fidelity.py needs no weights, learned.py does.  Images are uint8 [3, H, W]."""

from .fidelity import MAX_PSNR, ExtraMetric, bits_per_dimension, bits_per_pixel, psnr, score, ssim_scores

__all__ = ["MAX_PSNR", "ExtraMetric", "bits_per_dimension", "bits_per_pixel", "psnr", "score", "ssim_scores"]
