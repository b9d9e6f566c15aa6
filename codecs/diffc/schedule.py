"""Which noise levels DiffC visits and how many bits it expects to spend on the way.

A calibration belongs to a model: one or more named presets, each a descending list of noise levels and, for every
level the chain starts a step from, the mean squared error of x0_hat per dimension measured on photos.  Both sides
derive a step's expected KL from it (DiffC, Theis et al. 2022; per dimension, with the variance of the reverse process
raised to what the error makes of it)::

    KL(t -> s) = d / 2 log2(1 + (SNR_s - SNR_t) mse_t)

because the whitened mean difference of q(z_s | z_t, x) and p(z_s | z_t) has |mu|^2 = (SNR_s - SNR_t) |x - x0_hat|^2.
A calibration may also say how that error is spread over bands (bands.py); a step is then the sum of its parts.
How a calibration is made is in codecs/diffc/calibrate.py; this file only reads it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffpress import resource

from ...lightning_modules.identity import ModelError, read_json
from ...lightning_modules.priors.interface import Prior


@dataclass(frozen=True)
class Schedule:
    """levels  noise levels the chain stops at, descending; it starts from pure noise at the prior's num_levels
    mse      expected squared error of x0_hat per dimension when leaving pure noise and each level but the last
    bands    the same for every band of bands.py, [levels][bands]; None where that was not measured
    """

    name: str
    levels: tuple[int, ...]
    mse: tuple[float, ...]
    bands: tuple[tuple[float, ...], ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.levels or len(self.levels) != len(self.mse):
            raise ModelError(f"preset {self.name!r} needs as many errors as levels")
        if any(a <= b for a, b in zip(self.levels, self.levels[1:], strict=False)) or self.levels[-1] < 1:
            raise ModelError(f"the levels of preset {self.name!r} must descend and stay above 0")
        if not all(error > 0 and math.isfinite(error) for error in self.mse):
            raise ModelError(f"the errors of preset {self.name!r} must be positive")
        if self.bands is not None:
            if len(self.bands) != len(self.levels) or len({len(row) for row in self.bands}) != 1:
                raise ModelError(f"preset {self.name!r} needs the errors of all bands for every level")
            if not all(error > 0 and math.isfinite(error) for row in self.bands for error in row):
                raise ModelError(f"the errors of preset {self.name!r} must be positive")


def snr_gain(log_snr_s: float, log_snr_t: float) -> float:
    """SNR_s - SNR_t; log_snr_t = -inf means pure noise."""
    return math.exp(log_snr_s) - math.exp(log_snr_t)


def fingerprint_text(schedules: Sequence[Schedule]) -> str:
    """What enters the fingerprint of a model that is used with other presets than those beside it."""
    bands = [one.bands for one in schedules if one.bands is not None]
    return repr(schedules) + (repr(bands) if bands else "")


def find_schedules(prior: Prior, name: str | None = None) -> tuple[list[Schedule], bool]:
    """(presets, whether they lie beside the model) that `prior` is used with; raises ModelError.

    name  a file, or a schedule that ships with the project (configs/diffc/NAME.json); None: the calibration beside the
          model, or else the shipped one that suits it
    """
    if name is None and (prior.folder / "calibration.json").is_file():
        return load_schedules(prior.folder), True
    shipped = name or getattr(prior, "schedule", None)
    if shipped is None:
        return load_schedules(prior.folder), True  # which says what is missing
    path = Path(shipped)
    if not path.is_file():
        try:
            path = resource(f"configs/diffc/{shipped}.json")
        except FileNotFoundError:
            raise ModelError(f"there is no schedule {shipped!r}, neither a file nor a shipped one") from None
    return parse_schedules(read_json(path), str(path)), False


def load_schedules(folder: Path) -> list[Schedule]:
    """The presets of the model in `folder`, in the order in which files refer to them; raises ModelError."""
    path = folder / "calibration.json"
    if not path.is_file():
        raise ModelError(f"{folder} has no calibration.json; make one with calibrate.py")
    return parse_schedules(read_json(path), str(path))


def parse_schedules(table: dict[str, Any], where: str) -> list[Schedule]:
    """Presets of a calibration table; `where` names it in errors."""
    try:
        presets = table["presets"]
        return [
            Schedule(
                p["name"], tuple(int(level) for level in p["levels"]), tuple(float(mse) for mse in p["mse"]),
                tuple(tuple(float(mse) for mse in row) for row in p["bands"]) if "bands" in p else None,
            )
            for p in presets
        ]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{where} is not a calibration: {error!r}") from error
