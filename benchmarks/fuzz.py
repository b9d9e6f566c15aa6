"""Mutated files against the decoders, mutated images against the readers: crashes, hangs, memory, wrong pictures.

    python benchmarks/fuzz.py diffc lossless uqdm bitsback --cases 100000 -o docs/results/fuzz.json
    python benchmarks/fuzz.py PNG JPEG WEBP --cases 10000 -o docs/results/fuzz.json

A case is a number: seed and number give the same bytes everywhere.  Three kinds take turns, 16, 3 and 1 of 20:
damaged  a golden file with bytes changed, cut, inserted, removed or taken from another file.  What decodes without a
         note must be the very picture, and no file of full length may be called cut.  Of every hundredth, what there
         is of it is decoded, as with --recover.
forged   a file whose checksums are right and whose header and segments are not; it may decode to anything.
bombs    numbers at their largest, 4,096 segments, deflated data that would be gigabytes, prompts.
Cases run in another process, so that a crash is one more result.  Results are written as they come: the same command
goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import platform
import random
import resource
import signal
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from diffpress.codecs import CodecError, Stream, attachments, container, get_codec
from diffpress.data.images import ImageError, read_photo, write_file
from diffpress.lightning_modules import ModelError, load_model

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
SECONDS = 10  # of the processor; a case that takes longer hangs
MEGABYTES = 512  # that the process may grow by, whatever the cases
MAX_PIXELS = 1 << 14
CHUNK = 20_000  # cases a process
NOTED = 1_000  # cases until results are written
PATIENCE = 60  # seconds of the processor without an answer, loading included: compiled code that no signal reaches
SMALL = 8  # pixels a side of the pictures of which most forged files are made, where that is sooner
DECODERS = {"diffc": "diffc", "lossless": "diffc", "uqdm": "uqdm", "bitsback": "bitsback"}  # targets, their codecs
READERS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "JPEG2000", "PPM", "TGA", "JXL")


@dataclass(frozen=True)
class Sample:
    """A file, its codec and its picture; `small` if made here, of a corner of a golden picture."""

    data: bytes
    codec: Any
    stream: Stream
    image: torch.Tensor
    small: bool = False


class Hang(BaseException):
    """A case took too long."""


def samples(target: str, most: int | None = None) -> list[Sample]:
    """All golden files of a target, of every version, or the first `most`; one with attachments; small ones."""
    found, small = [], []
    for entry in json.loads((GOLDEN / "files.json").read_text(encoding="utf-8")):
        lossless = entry["request"].get("lossless", False)
        if entry["codec"] != DECODERS[target] or "calibration" in entry or (target == "lossless") > lossless:
            continue
        options = dict(entry["options"])
        if "schedule" in options:
            options["schedule"] = str(GOLDEN / options["schedule"])
        if DECODERS[target] == "diffc":
            options |= {"reconstruction": "mse"}
        opened = get_codec(entry["codec"], model=load_model(GOLDEN / entry["model"], device="cpu"), **options)
        data = (GOLDEN / entry["file"]).read_bytes()
        stream = container.read(data, opened)
        found.append(Sample(data, opened, stream, opened.decode(stream)))
        if target in ("lossless", "bitsback"):
            corner = found[-1].image[:, :SMALL, :SMALL]
            stream = opened.encode(corner, **entry["request"])
            small.append(Sample(container.write(stream, opened), opened, stream, corner, small=True))
        if len(found) == most:
            break
    first = found[0]
    alpha = torch.zeros(first.image.shape[1:], dtype=torch.uint8)
    stream = attachments.attach(first.stream, alpha, {"exif": b"Exif\0\0" * 9, "icc": bytes(300)})
    return [*found, replace(first, data=container.write(stream, first.codec), stream=stream), *small]


def mutated(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """One to four changes."""
    broken = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 4])):
        at, size = rng.randrange(len(broken) + 1), rng.choice([1, 1, 2, 4, 16, 200])
        if rng.random() < 0.3:
            at = rng.randrange(20)  # in the header
        kind = rng.randrange(7)
        if kind < 2 and at < len(broken):
            broken[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            broken[at : at + size] = rng.randbytes(len(broken[at : at + size]))
        elif kind == 3:
            del broken[max(at, 1) :]
        elif kind == 4:
            del broken[at : at + size]
        elif kind == 5:
            broken[at:at] = rng.choice([rng.randbytes(size), bytes(size), b"\xff" * size])
        else:
            start = rng.randrange(len(other))
            broken[at : at + size] = other[start : start + size]
        if not broken:
            broken = bytearray(b"\xd1")
    return bytes(broken)


def forged(sample: Sample, other: Sample, rng: random.Random) -> bytes:
    """Right checksums around a header and segments that are not."""
    stream = sample.stream
    header, segments = stream.header, list(stream.segments)
    for _ in range(rng.choice([1, 1, 2, 3])):
        kind, at = rng.randrange(9), rng.randrange(len(segments))
        if kind == 0:
            segments[at] = mutated(segments[at] + b"\0", rng.choice(other.stream.segments) + b"\0", rng)
        elif kind == 1:
            segments[at] = rng.randbytes(rng.choice([0, 1, 8, 100]))
        elif kind == 2:
            segments.insert(at, rng.choice(segments))
        elif kind == 3 and len(segments) > 1:
            del segments[at]
        elif kind == 4:
            header = replace(header, params=rng.randbytes(len(header.params)))
        elif kind == 5:
            header = replace(header, params=_changed(header.params, rng))
        elif kind > 6:  # of the same size, which the codec accepts more often
            segments[at] = _changed(segments[at], rng)
        else:
            height, width = rng.choice([1, 2, 8, 63, 64, 65, 128]), rng.choice([1, 7, 16, 65, 128])
            header = replace(header, height=height, width=width)
    return container.write(Stream(header, tuple(segments)), sample.codec)


def _changed(data: bytes, rng: random.Random) -> bytes:
    """One to eight bits flipped."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8]) if data else 0):
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


@cache
def deflated_zeros(size: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(bytes(size)) + packer.flush()


def bomb(sample: Sample, rng: random.Random) -> bytes:
    """A file that asks for much."""
    header, segments = sample.stream.header, sample.stream.segments
    kind = rng.randrange(5)
    if kind == 0:
        size = rng.choice([1, 127, 1 << 14, 1 << 20, (1 << 35) - 1])
        header = replace(header, height=size, width=rng.choice([1, size]))
    elif kind == 1:
        segments = (rng.choice([b"", segments[0], bytes(3)]),) * container.MAX_SEGMENTS
    elif kind == 2:
        data = deflated_zeros(rng.choice([1 << 16, 1 << 24, (1 << 24) + 1]))
        kinds = rng.sample(range(1, 5), 2)
        stream = Stream(header, segments, attachments=tuple((one, b"\0" * (one == 1) + data) for one in sorted(kinds)))
        return container.write(stream, sample.codec)
    elif kind == 3:
        text = rng.choice([b"\xff\xff\xff\xff\x7f", bytes(4), b"\x03" + zlib.compress(bytes(100_000))[2:], b"\x0f\xff"])
        header = replace(header, params=bytes([header.params[0] | 128]) + header.params[1:])
        segments = (text + segments[0], *segments[1:])
    else:
        length = rng.choice([b"\xff\xff\xff\xff\x7f", b"\x80\x80\x80\x80\x00", b"\xff" * 9, b"\x00"])
        data = container.write(Stream(header, segments), sample.codec)
        return data[:7] + length + data[rng.choice([8, 9, 10]) :]
    return container.write(Stream(header, segments), sample.codec)


def kind_of(number: int) -> str:
    return {0: "bomb", 5: "forged", 10: "forged", 15: "forged"}.get(number % 20, "damaged")


def decode_case(corpus: list[Sample], seed: int, number: int) -> str:
    """What became of a case: "refused" (also "refused, full length"), "whole", "partly", "anything", or what is wrong.

    Forged files and bombs may decode to anything.
    """
    rng, kind = random.Random(f"{seed}/{number}"), kind_of(number)
    quick = [sample for sample in corpus if sample.small]
    drawn = quick if quick and kind != "damaged" and rng.random() < 0.9 else corpus
    sample, other = rng.choice(drawn), rng.choice(drawn)
    if kind == "damaged":
        data = mutated(sample.data, other.data, rng)
    else:
        data = forged(sample, other, rng) if kind == "forged" else bomb(sample, rng)
    full = kind == "damaged" and len(data) == len(sample.data) and data != sample.data
    try:
        stream = container.read(data, sample.codec, max_pixels=MAX_PIXELS)
        if full and "is cut:" in stream.note:
            return "WRONG: a damaged file of full length is called cut"
        image = sample.codec.decode(stream)
        attachments.alpha_of(stream)
        attachments.metadata_of(stream)
    except (CodecError, ModelError) as error:
        if full and "is cut" in str(error) and "or damaged" not in str(error):
            return "WRONG: a damaged file of full length is called cut"
        if number % 100 == 1 and isinstance(error, container.DamagedFile) and error.stream.segments:
            with suppress(CodecError, ModelError):
                sample.codec.decode(error.stream)
        how = ", full length" if full else ""
        return f"refused{how}" if str(error) and "\n" not in str(error) else "WRONG: an error without a sentence"
    if stream.note:
        return "partly"
    if kind != "damaged":
        return "anything"
    expected = next((one for one in corpus if one.data == data), sample).image
    same = image.shape == expected.shape and torch.equal(image, expected)
    return "whole" if same else "WRONG: another picture without a note"


def images(reader: str) -> list[bytes]:
    """Small pictures of a format in several modes."""
    found = []
    with suppress(ImportError):
        import pillow_jxl  # noqa: F401
    gradient = Image.merge("RGB", [Image.linear_gradient("L").resize((33, 17)).rotate(turn) for turn in (0, 90, 180)])
    for mode in ("RGB", "RGBA", "L", "P", "1", "LA", "CMYK", "I;16"):
        for options in ({}, {"exif": _exif(), "icc_profile": _profile()}):
            buffer = io.BytesIO()
            try:
                gradient.convert(mode).save(buffer, reader, **options)
            except (OSError, ValueError, KeyError, NotImplementedError):
                continue
            found.append(buffer.getvalue())
    return found


def _exif() -> bytes:
    tags = Image.Exif()
    tags[0x0112], tags[0x010F] = 6, "Maker"
    return tags.tobytes()


def _profile() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def image_case(corpus: list[bytes], seed: int, number: int) -> str:
    """What became of a case: "refused", "read", or what is wrong."""
    rng = random.Random(f"{seed}/{number}")
    data = mutated(rng.choice(corpus), rng.choice(corpus), rng)
    try:
        photo = read_photo(io.BytesIO(data), keep_metadata=bool(number % 2))
    except ImageError as error:
        return "refused" if str(error) and "\n" not in str(error) else "WRONG: an error without a sentence"
    return "read" if photo.image.dtype == torch.uint8 else "WRONG: no image"


def _serve(connection: Any, target: str, seed: int, first: int, count: int) -> None:
    """Say what becomes of the cases, one by one."""
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    Image.MAX_IMAGE_PIXELS = 1 << 24
    corpus: Any = images(target) if target in READERS else samples(target)
    case = image_case if target in READERS else decode_case

    def stop(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGPROF, stop)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(first, first + count):
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            what = case(corpus, seed, number)
        except Hang:
            what = f"WRONG: more than {SECONDS} s"
        except Exception as error:
            what = f"WRONG: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        signal.setitimer(signal.ITIMER_PROF, 0)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        if grown > MEGABYTES:
            what, before = f"WRONG: {grown:.0f} MB", before + int(grown * 1024)
        connection.send(what)


def outcomes(target: str, seed: int, first: int, end: int) -> Iterator[tuple[int, str]]:
    """(number, what became of it) of each case, in processes of CHUNK cases."""
    context = multiprocessing.get_context("spawn")
    number = first
    while number < end:
        here, there = context.Pipe()
        until = min(number + CHUNK, end)
        process = context.Process(target=_serve, args=(there, target, seed, number, until - number))
        process.start()
        there.close()
        try:
            while number < until:
                before = None
                while not here.poll(PATIENCE):  # on a busy machine it may only be waiting
                    used = _processor_seconds(process.pid)
                    before = used if before is None else before
                    if used > before + PATIENCE:
                        process.kill()
                yield number, here.recv()
                number += 1
        except EOFError:
            process.join()
            yield number, f"WRONG: the process ended ({process.exitcode})"
            number += 1
        process.join()


def _processor_seconds(process: int | None) -> float:
    """That a process has used so far, on Linux; 0 where it has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run(target: str, seed: int, cases: int, out: Path | None) -> dict[str, Any]:
    """Counts of what became of the cases, and the numbers of those that went wrong; goes on from what `out` has."""
    everything = json.loads(out.read_text()) if out and out.is_file() else {}
    machine = f"{platform.machine()}, Python {platform.python_version()}, PyTorch {torch.__version__}"
    found = everything.get(target, {})
    if found.get("seed") != seed:
        found = {"seed": seed, "cases": 0, "counts": {}, "wrong": [], "machine": machine}
    everything[target] = found
    counts = Counter[str](found["counts"])
    for number, what in outcomes(target, seed, found["cases"], cases):
        counts[what.split(":")[0] if target in READERS else f"{kind_of(number)}, {what.split(':')[0]}"] += 1
        if what.startswith("WRONG"):
            found["wrong"].append([number, what])
            print(target, number, what, flush=True)
        found |= {"cases": number + 1, "counts": dict(sorted(counts.items()))}
        if out and ((number + 1) % NOTED == 0 or number + 1 == cases):
            write_file(out, (json.dumps(everything, indent=1) + "\n").encode())
    return found


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("targets", nargs="+", help=f"{', '.join(DECODERS)}, or a reader: {', '.join(READERS)}")
    p.add_argument("--cases", type=int, default=1000, help="so many in all, with those that --out has already")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("-o", "--out", type=Path, help="JSON file of the results")
    a = p.parse_args()
    wrong = False
    for target in a.targets:
        found = run(target, a.seed, a.cases, a.out)
        wrong |= bool(found["wrong"])
        print(target, found["counts"], flush=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
