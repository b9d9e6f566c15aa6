"""Which model a file belongs to: 4 bytes, by six recipes (specified here and in docs/format.md).

A file stores the fingerprint of the model that wrote it, and only that model decodes it.  H is SHA-256 over bytes, +
joins bytes, 00 is a zero byte, and [:4] takes the first four bytes of a digest::

    file entry            path from the model folder, UTF-8, "/" between its parts + 00 + H(contents)
    model folder          H(entries)[:4] of all .json, .safetensors and .pt files below it, sorted by their paths' parts
    pipeline folder       H(entries)[:4] of model_index.json; calibration.json, if there is one; then of every part in
                          use, sorted by name: first its configurations and tokenizer files, then its weights
    pipeline + refiner    exclusive or of both fingerprints, byte by byte
    published, raw        H(fingerprint of the folder + "raw")[:4]: the weights that are no averages
    model in memory       H(configuration as JSON + for every tensor, sorted by name: name + 00 + float32 values)[:4]
    other schedules       H(fingerprint of the model + text of the schedules)[:4], see `schedules_text`

Names are sorted by code points.  Tensors are little-endian, row by row.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# (name, timesteps, mean squared errors, errors of every subband per timestep or None), as in a calibration file
ScheduleFacts = tuple[str, Sequence[int], Sequence[float], Sequence[Sequence[float]] | None]

_BLOB = re.compile(r"[0-9a-f]{64}")
_ESCAPES = {"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"}


class ModelError(ValueError):
    """A model folder that cannot be used; the message is one sentence meant for the user."""


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises ModelError naming the file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds no JSON object")
    return value


def fingerprint(folder: Path) -> bytes:
    """4 bytes of a model folder: every configuration, weight and calibration file below it."""
    return _of_files(folder, sorted(model_files(folder), key=lambda path: path.relative_to(folder).parts))


def model_files(folder: Path) -> Iterator[Path]:
    """Every configuration, weight and calibration file below a model folder."""
    suffixes = (".json", ".safetensors", ".pt")
    return (path for path in folder.rglob("*") if path.suffix in suffixes and path.is_file())


def fingerprint_pipeline(folder: Path, parts: Iterable[str], variant: str | None) -> bytes:
    """4 bytes of the `parts` in use of a diffusers pipeline folder, with their weights of `variant` (None: of none).

    Configurations and tokenizer files are those ending in .json, .txt or .model, but for the lists of shards,
    .index.json; weights are `weight_files`.  Files of other variants, or of parts not in use, make no difference, so
    that everyone who downloads the same model gets the same fingerprint.
    """
    files = [folder / "model_index.json"]
    files += [path for path in [folder / "calibration.json"] if path.is_file()]
    for part in sorted(parts):
        texts = (path for path in (folder / part).iterdir() if path.suffix in (".json", ".txt", ".model"))
        files += sorted(path for path in texts if not path.name.endswith(".index.json"))
        files += sorted(weight_files(folder / part, variant))
    return _of_files(folder, files)


def weight_files(folder: Path, variant: str | None) -> Iterator[Path]:
    """The safetensors files of `variant` (None: of no variant) in a part's folder, shards included.

    The variant stands between the first two dots of a name: "fp16" in model.fp16-00001-of-00002.safetensors.
    """
    for path in folder.glob("*.safetensors"):
        middle = path.name.split(".")[1:-1]
        found = re.sub(r"-\d+-of-\d+$", "", middle[0]) if middle else None
        if found == variant:
            yield path


def with_refiner(base: bytes, refiner: bytes) -> bytes:
    """4 bytes of a pipeline that hands over to a refiner."""
    return bytes(a ^ b for a, b in zip(base, refiner, strict=True))


def of_raw_weights(folder_fingerprint: bytes) -> bytes:
    """4 bytes of the raw weights in a published checkpoint; `folder_fingerprint` alone stands for the averaged ones."""
    return hashlib.sha256(folder_fingerprint + b"raw").digest()[:4]


def of_module(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """4 bytes of a model that comes from no folder: its configuration (JSON values) and its tensors by name.

    The JSON text has its keys sorted, ", " and ": " between its elements, and \\uXXXX for all beyond ASCII.
    """
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, value in sorted(tensors.items()):
        array = value.detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4")
        digest.update(name.encode() + b"\0" + array.tobytes())
    return digest.digest()[:4]


def with_schedules(model: bytes, schedules: Iterable[ScheduleFacts]) -> bytes:
    """4 bytes of the model with fingerprint `model` when it is used with schedules that do not lie beside it."""
    return hashlib.sha256(model + schedules_text(schedules).encode()).digest()[:4]


def schedules_text(schedules: Iterable[ScheduleFacts]) -> str:
    """The text that stands for schedules, in the order in which files refer to them::

        [Schedule(name='a', levels=(600, 500), mse=(0.5, 0.25)), Schedule(...)]

    and behind it, if any schedule knows the errors of its subbands, those of each that does:
    [((0.5, 0.25), (...)), ...].  A single value in round brackets has a comma behind it.  Integers are decimal; a
    double is the shortest decimal that reads back as it, the closest of those, with a point or an exponent: 1.0,
    0.0001, 1e-05, 1e+16.  A name stands in single quotes, or in double ones if it holds single and no double ones; the
    quote in use, the backslash, tab, newline and carriage return have a backslash in front, other characters that
    cannot be printed are \\xXX, \\uXXXX or \\UXXXXXXXX.
    """
    schedules = list(schedules)
    texts = [
        f"Schedule(name={_quoted(name)}, levels={_brackets(str(int(t)) for t in timesteps)}, mse={_doubles(mse)})"
        for name, timesteps, mse, _ in schedules
    ]
    subbands = [_brackets(_doubles(row) for row in errors) for *_, errors in schedules if errors is not None]
    return f"[{', '.join(texts)}]" + (f"[{', '.join(subbands)}]" if subbands else "")


def _brackets(texts: Iterable[str]) -> str:
    listed = list(texts)
    return f"({', '.join(listed)}{',' if len(listed) == 1 else ''})"


def _doubles(values: Iterable[float]) -> str:
    return _brackets(float.__repr__(float(value)) for value in values)  # the shortest decimal, as Python promises


def _quoted(name: str) -> str:
    quote = '"' if "'" in name and '"' not in name else "'"
    return quote + "".join("\\" + c if c == quote else _escaped(c) for c in name) + quote


def _escaped(character: str) -> str:
    if character in _ESCAPES or character.isprintable():
        return _ESCAPES.get(character, character)
    code = ord(character)
    return f"\\x{code:02x}" if code < 1 << 8 else f"\\u{code:04x}" if code < 1 << 16 else f"\\U{code:08x}"


def _of_files(folder: Path, files: Iterable[Path]) -> bytes:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + _file_digest(path))
    return digest.digest()[:4]


def _file_digest(path: Path) -> bytes:
    """SHA-256 of a file.  The hub's cache names large files by theirs, which saves reading gigabytes."""
    target = path.resolve()
    if path.is_symlink() and target.parent.name == "blobs" and _BLOB.fullmatch(target.name):
        return bytes.fromhex(target.name)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
