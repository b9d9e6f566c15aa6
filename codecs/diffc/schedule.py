"""Which timesteps DiffC visits and how many bits it expects to spend on the way.

A calibration belongs to a model: one or more named presets, each a descending list of timesteps and, for every
timestep that a step starts from, the mean squared error of x0_hat per dimension measured on photos.  Both sides
derive a step's expected KL from it (DiffC, Theis et al. 2022; per dimension, with the variance of the reverse process
raised to what the error makes of it)::

    KL(t -> s) = d / 2 log2(1 + (SNR_s - SNR_t) mse_t)

because the means of q(z_s | z_t, x) and p(z_s | z_t), in units of q's standard deviation, are mu apart with
|mu|^2 = (SNR_s - SNR_t) |x - x0_hat|^2 (VDM eq. 13 is the mean of |mu|^2 / 2, the KL in nats at q's variance).
A calibration may also say how that error is spread over subbands (subbands.py); a step is then the sum of its groups.
How a calibration is made is in calibrate.py; this file only reads it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffpress import resource

from ...lightning_modules.identity import ModelError, read_json, with_schedules
from ...lightning_modules.priors.interface import Prior


@dataclass(frozen=True)
class Schedule:
    """A preset of a calibration.

    timesteps    where steps end, descending; the chain starts from pure noise at the prior's num_levels
    mse          expected squared error of x0_hat per dimension when leaving pure noise and each timestep but the last
    subband_mse  the same for every subband, [timesteps][subbands]; None where that was not measured
    Raises ModelError.
    """

    name: str
    timesteps: tuple[int, ...]
    mse: tuple[float, ...]
    subband_mse: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        if not self.timesteps or len(self.timesteps) != len(self.mse):
            raise ModelError(f"preset {self.name!r} needs as many errors as timesteps")
        if any(a <= b for a, b in zip(self.timesteps, self.timesteps[1:], strict=False)) or self.timesteps[-1] < 1:
            raise ModelError(f"the timesteps of preset {self.name!r} must descend and stay above 0")
        if not all(error > 0 and math.isfinite(error) for error in self.mse):
            raise ModelError(f"the errors of preset {self.name!r} must be positive")
        if self.subband_mse is not None:
            if len(self.subband_mse) != len(self.timesteps) or len({len(row) for row in self.subband_mse}) != 1:
                raise ModelError(f"preset {self.name!r} needs the errors of all subbands for every timestep")
            if not all(error > 0 and math.isfinite(error) for row in self.subband_mse for error in row):
                raise ModelError(f"the errors of preset {self.name!r} must be positive")


def snr_gain(log_snr_s: float, log_snr_t: float) -> float:
    """SNR_s - SNR_t; log_snr_t = -inf means pure noise."""
    return math.exp(log_snr_s) - math.exp(log_snr_t)


def schedule_identity(fingerprint: bytes, schedules: Sequence[Schedule]) -> bytes:
    """The 4-byte fingerprint of a model that is used with other presets than those beside it."""
    return with_schedules(fingerprint, [(one.name, one.timesteps, one.mse, one.subband_mse) for one in schedules])


def find_schedules(prior: Prior, name: str | None = None) -> tuple[list[Schedule], bool]:
    """(presets, whether they lie beside the model) that `prior` is used with; raises ModelError.

    name  a file, or a schedule that ships with the project (configs/diffc/NAME.json); None: the calibration beside the
          model, or else the shipped one that suits it
    """
    shipped = _not_beside(prior, name)
    if shipped is None:
        return load_schedules(prior.folder), True  # which says what is missing
    path = Path(shipped)
    if not path.is_file():
        try:
            path = resource(f"configs/diffc/{shipped}.json")
        except FileNotFoundError:
            if name is None:
                raise ModelError(f"{shipped}, the model's calibration, is missing; make it with calibrate.py") from None
            raise ModelError(f"there is no schedule {shipped!r}, neither a file nor a shipped one") from None
    return parse_schedules(read_json(path), str(path)), False


def schedule_source(prior: Prior, name: str | None = None) -> str:
    """Whose presets `find_schedules` finds, in words."""
    shipped = _not_beside(prior, name)
    if shipped is None:
        return "calibrated with this model"
    if Path(shipped).is_file():
        return f"calibrated: {Path(shipped).name}"
    return f"published for {shipped}, by signal-to-noise ratio"


def _not_beside(prior: Prior, name: str | None) -> str | None:
    """The file or shipped schedule that `find_schedules` reads; None: the calibration beside the model."""
    return None if name is None and (prior.folder / "calibration.json").is_file() else name or prior.schedule


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
                p["name"], tuple(int(t) for t in p["levels"]), tuple(float(mse) for mse in p["mse"]),
                tuple(tuple(float(mse) for mse in row) for row in p["bands"]) if "bands" in p else None,
            )
            for p in presets
        ]
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{where} is not a calibration: {error!r}") from error
