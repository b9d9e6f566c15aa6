"""Rate and quality of one decoded image against its original; everything that needs no weights.

All metrics compare 8-bit RGB images, uint8 [3, H, W].  Learned metrics are in learned.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ...lightning_modules.diffusion.pixels import psnr as psnr_of

ExtraMetric = Callable[[Tensor, Tensor], float | None]  # of (decoded, original); None where it is undefined
MAX_PSNR = 100.0  # dB that an exact copy counts as in averages, where infinity would hide every other image
_WINDOW, _SIGMA = 11, 1.5
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the five scales, Wang et al. 2003
_SMALLEST_MS_SSIM = (_WINDOW - 1) * 2 ** (len(_WEIGHTS) - 1)  # sides must be longer than 160 pixels


def bits_per_pixel(num_bytes: int, height: int, width: int) -> float:
    """bpp of a file of `num_bytes`, header included."""
    return 8.0 * num_bytes / (height * width)


def bits_per_dimension(bpp: float) -> float:
    """bpd: bits per colour sample."""
    return bpp / 3.0


def score(
    decoded: Tensor, image: Tensor, extra: Mapping[str, ExtraMetric] | None = None
) -> dict[str, float | None]:
    """All quality metrics of a decoded image, by CompressAI's names, and `extra` ones; None where undefined.

    PSNR of an exact copy is infinite, which JSON keeps as None.
    """
    ssim, ms_ssim = ssim_scores(decoded, image)
    value = psnr(decoded, image)
    scores: dict[str, float | None] = {
        "psnr-rgb": value if math.isfinite(value) else None,
        "ssim-rgb": ssim,
        "ms-ssim-rgb": ms_ssim,
    }
    return scores | {name: metric(decoded, image) for name, metric in (extra or {}).items()}


def psnr(image: Tensor, original: Tensor) -> float:
    """PSNR in dB over all samples of two uint8 [3, H, W] images; infinite when they are equal."""
    _check(image, original)
    return float(psnr_of(image, original))


def ssim_scores(image: Tensor, original: Tensor) -> tuple[float | None, float | None]:
    """(SSIM, MS-SSIM) of two uint8 [3, H, W] images, None where undefined.

    Gaussian window of 11 x 11 with sigma 1.5, per colour channel, windows inside the image only, as CompressAI's
    figures have it.  SSIM needs sides of at least 11 pixels, MS-SSIM of more than 160.
    """
    _check(image, original)
    if min(image.shape[1:]) < _WINDOW:
        return None, None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # many short operations: a second thread gains little, and beside others loses sixfold
    try:
        return _ssim_and_ms_ssim(image, original)
    finally:
        torch.set_num_threads(threads)


def _ssim_and_ms_ssim(image: Tensor, original: Tensor) -> tuple[float, float | None]:
    side = min(image.shape[1:])
    scales = len(_WEIGHTS) if side > _SMALLEST_MS_SSIM else 1
    x, y = image[None].float(), original[None].float()
    ssim, product = 0.0, torch.ones(3)
    for scale in range(scales):
        if scale:
            padding = [size % 2 for size in x.shape[2:]]
            x, y = F.avg_pool2d(x, 2, padding=padding), F.avg_pool2d(y, 2, padding=padding)
        full, contrast = _ssim_terms(x, y)
        if scale == 0:
            ssim = float(full.mean())
        term = full if scale == scales - 1 else contrast
        product = product * term.clamp(min=0) ** _WEIGHTS[scale]
    return ssim, float(product.mean()) if scales == len(_WEIGHTS) else None


def _ssim_terms(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean SSIM and mean contrast-structure term per channel, each [3], of float images [1, 3, H, W] in 0..255."""
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    # Shifted by mid-grey: variances are differences of second moments, and float32 loses them for large means.
    x0, y0 = x - 128, y - 128
    moments = _blur(torch.cat([x0, y0, x0 * x0, y0 * y0, x0 * y0]))
    mean_x, mean_y = moments[0], moments[1]
    var_x, var_y = moments[2] - mean_x**2, moments[3] - mean_y**2
    covariance = moments[4] - mean_x * mean_y
    contrast = (2 * covariance + c2) / (var_x + var_y + c2)
    mean_x, mean_y = mean_x + 128, mean_y + 128
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (luminance * contrast).double().mean((1, 2)), contrast.double().mean((1, 2))


def _blur(x: Tensor) -> Tensor:
    """Separable Gaussian over [N, C, H, W], without padding.

    Eleven shifted additions a direction: six times faster on a CPU than conv2d with one channel.
    """
    weights = [math.exp(-((k - _WINDOW // 2) ** 2) / (2 * _SIGMA**2)) for k in range(_WINDOW)]
    for dim in (2, 3):
        size = x.shape[dim] - _WINDOW + 1
        total = x.narrow(dim, 0, size) * (weights[0] / sum(weights))
        for k in range(1, _WINDOW):
            total.add_(x.narrow(dim, k, size), alpha=weights[k] / sum(weights))
        x = total
    return x


def _check(image: Tensor, original: Tensor) -> None:
    if image.dtype != torch.uint8 or original.dtype != torch.uint8 or image.shape != original.shape or image.ndim != 3:
        raise ValueError("metrics compare two uint8 images [3, H, W] of the same size")
