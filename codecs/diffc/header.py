"""What both sides of DiffC know before the first payload: the presets of a calibration, and what a file says of itself.

A calibration belongs to a model: one or more named presets, each a descending list of timesteps and, for every
timestep that a step starts from, the mean squared error of x0_hat per dimension measured on photos.  Both sides
derive a step's expected KL from it (DiffC, Theis et al. 2022; per dimension, with the variance of the reverse process
raised to what the error makes of it)::

    KL(t -> s) = d / 2 log2(1 + (SNR_s - SNR_t) mse_t)

because the means of q(z_s | z_t, x) and p(z_s | z_t), in units of q's standard deviation, are mu apart with
|mu|^2 = (SNR_s - SNR_t) |x - x0_hat|^2 (VDM eq. 13 is the mean of |mu|^2 / 2, the KL in nats at q's variance).
A calibration may also say how that error is spread over subbands (subbands.py); a step is then the sum of its groups.
How a calibration is made is in calibrate.py; this file only reads it.

A file has two parameter bytes in its header.  A prompt or a guidance scale costs nothing where there is none: a flag in
the header announces it, and it stands in front of the first segment::

    flags (1)                          1 prompt, 2 prompt is deflated, 4 guidance, 8 denoising guidance
    guidance (1), denoising guidance (1)   each if flagged, in eighths
    length (LEB128) and bytes of the prompt, if flagged: UTF-8, or deflated with a dictionary where that is shorter
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffpress import resource

from ...lightning_modules.identity import ModelError, read_json, with_schedules
from ...lightning_modules.priors.interface import Prior
from .. import container
from ..base import CodecError
from ..reverse_channel import ReverseChannelCoder, get_coder

# What a file's coder id stands for: a reverse-channel coder and its options.  Part of the file format.
# PFR is the scheme to compare with, as published (truncated search, 14-bit chunks, 2^16 candidates, Zipf), because an
# exact search over the thousands of chunks of a photo takes hours.
CODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "pfr": ("pfr", {"mode": "truncated", "candidates": 1 << 16, "index_model": "zipf"}),
    "trellis": ("trellis", {}),
    "trellis-quick": ("trellis", {"branches": 5e8}),  # a sixteenth of the search at most, for 1 to 3 % more bits
}
FAST = "fast"  # the preset whose default coder is "trellis-quick", and which is reconstructed without an ensemble
MAX_PRESETS = 8
MAX_PROMPT = 4096  # bytes of UTF-8
GUIDANCE_STEP = 1 / 8
PROMPT, DEFLATED, GUIDANCE, DENOISING = 1, 2, 4, 8

# Words of captions, the most frequent ones last, where references to them are shortest.  Part of the file format.
DICTIONARY = (
    b"photograph painting illustration drawing realistic detailed background foreground beautiful colorful vintage "
    b"airplane bicycle motorcycle elephant giraffe kitchen bathroom bedroom restaurant laptop computer keyboard phone "
    b"umbrella skateboard surfboard snowboard baseball tennis soccer player holding wearing riding playing smiling "
    b"laying walking eating flying driving parked surrounded covered filled decorated lighthouse sailboat parrots "
    b"mountains mountain village bridge river forest flowers garden window windows brick wooden stone door church "
    b"children people woman women man men girl boy person young old little small large several many two three group "
    b"house houses building buildings city street road car truck train bus boat ship horse dog cat bird birds sheep "
    b"table chair bench plate food pizza cake glass bottle hat hats shirt dress yellow orange green purple brown black "
    b"white blue red sky clouds cloudy sunny sunset night day beach ocean sea water lake grass field tree trees snow "
    b"an image of a picture of a close up of a group of people a black and white photo of a couple of a person "
    b" standing sitting on top of a next to a in front of a on the side of a with a view of the in the background "
    b" and a in the on the of the with the at the near a over a a photo of a man a photo of a woman a photo of a "
)


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


@dataclass(frozen=True)
class HeaderParams:
    """What the two parameter bytes of a header say.

    preset         index into the calibration's presets, below MAX_PRESETS
    coder          position in CODERS
    group_budgets  whether each segment starts with the budget codes of its groups; else one in the first serves all
    lossless       whether the last segment restores the image exactly
    partial        the last step goes partial / 256 of the way to its timestep; 0 means all the way
    conditioned    whether a Conditioning stands in front of the first segment
    """

    preset: int
    coder: int
    group_budgets: bool
    lossless: bool
    partial: int = 0
    conditioned: bool = False

    def make_coder(self, bits: float) -> ReverseChannelCoder:
        """The reverse-channel coder of the file for a step whose groups carry `bits` together."""
        name, options = list(CODERS.values())[self.coder]
        return get_coder(name, **options).for_step(bits)

    def to_bytes(self) -> bytes:
        flags = self.conditioned << 7 | self.preset << 4 | self.lossless << 3 | self.group_budgets << 2 | self.coder
        return bytes([flags, self.partial])

    @classmethod
    def from_bytes(cls, params: bytes) -> HeaderParams:
        flags = params[0]
        if flags & 3 >= len(CODERS):
            raise CodecError("the file was written by a reverse-channel coder this program does not know")
        return cls(flags >> 4 & 7, flags & 3, bool(flags & 4), bool(flags & 8), params[1], bool(flags & 128))

    def read_conditioning(self, first: bytes | memoryview) -> tuple[Conditioning, int]:
        """(what the prior is conditioned on, number of bytes it takes) of the first segment."""
        return Conditioning.from_bytes(first) if self.conditioned else (Conditioning(), 0)

    def read_codes(
        self, before: Sequence[bytes], segment: bytes | memoryview, groups: int
    ) -> tuple[Sequence[int], int]:
        """(budget codes of a segment's `groups`, bytes in front of its payloads), behind the segments `before`."""
        first = before[0] if before else segment
        _, offset = self.read_conditioning(first)
        if self.group_budgets:
            start = 0 if before else offset
            codes = bytes(segment[start : start + groups])
            if len(codes) < groups:
                raise container.Truncated("no room for the budgets")
            return codes, start + groups
        if offset >= len(first):
            raise container.Truncated("no room for a budget")
        return [first[offset]] * groups, 0 if before else offset + 1


@dataclass(frozen=True)
class Conditioning:
    """What the prior is conditioned on.

    prompt              text, at most MAX_PROMPT bytes
    guidance            scale of the chain that encoder and decoder run alike, in eighths from 0 to 31.875
    denoising_guidance  scale of the final reconstruction, which the decoder may replace; None: as `guidance`
    """

    prompt: str = ""
    guidance: float = 1.0
    denoising_guidance: float | None = None

    def __post_init__(self) -> None:
        if len(self.prompt.encode()) > MAX_PROMPT:
            raise CodecError(f"a prompt may have at most {MAX_PROMPT} bytes")
        last = self.guidance if self.denoising_guidance is None else self.denoising_guidance
        for scale in (self.guidance, last):
            if not 0 <= scale < 256 * GUIDANCE_STEP or scale % GUIDANCE_STEP:
                raise CodecError(f"a guidance scale must be a multiple of 1/8 between 0 and 31.875, not {scale:g}")

    def to_bytes(self) -> bytes:
        """b"" for no prompt and no guidance."""
        text = self.prompt.encode()
        packer = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=DICTIONARY)
        deflated = packer.compress(text) + packer.flush()
        short = min(text, deflated, key=len)
        scales = b""
        flags = PROMPT * bool(text) | DEFLATED * (bool(text) and short is deflated)
        if self.guidance != 1:
            flags, scales = flags | GUIDANCE, bytes([int(self.guidance / GUIDANCE_STEP)])
        if self.denoising_guidance is not None and self.denoising_guidance != self.guidance:
            flags, scales = flags | DENOISING, scales + bytes([int(self.denoising_guidance / GUIDANCE_STEP)])
        if not flags:
            return b""
        return bytes([flags]) + scales + (container.varint(len(short)) + short if text else b"")

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> tuple[Conditioning, int]:
        """(conditioning, number of bytes) at the start of a first segment; raises container.Truncated or CodecError."""
        if not data:
            raise container.Truncated("the file ends before its prompt")
        flags, offset = data[0], 1
        if flags >= 16 or not flags:
            raise CodecError("the prompt's flags are damaged")
        scales: list[float | None] = [1.0, None]
        for number, flag in enumerate((GUIDANCE, DENOISING)):
            if flags & flag:
                if offset >= len(data):
                    raise container.Truncated("the file ends inside its guidance")
                scales[number] = data[offset] * GUIDANCE_STEP
                offset += 1
        prompt = b""
        if flags & PROMPT:
            length, offset = container.read_varint(data, offset)
            if length > MAX_PROMPT:
                raise CodecError("the prompt is longer than allowed")
            if offset + length > len(data):
                raise container.Truncated("the file ends inside its prompt")
            prompt = bytes(data[offset : offset + length])
            offset += length
            if flags & DEFLATED:
                prompt = _inflate(prompt)
        try:
            return cls(prompt.decode(), scales[0] or 0.0, scales[1]), offset
        except UnicodeDecodeError:
            raise CodecError("the prompt is damaged") from None


def _inflate(data: bytes) -> bytes:
    unpacker = zlib.decompressobj(-15, zdict=DICTIONARY)
    try:
        text = unpacker.decompress(data, MAX_PROMPT + 1)
    except zlib.error:
        raise CodecError("the prompt is damaged") from None
    if not unpacker.eof or unpacker.unused_data:
        raise CodecError("the prompt is damaged")
    return text
