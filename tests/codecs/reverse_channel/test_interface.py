"""What both coders promise: the same sample on both sides, self-delimiting payloads, named errors."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from diffpress.codecs.reverse_channel import CoderError, InputError, PayloadError, get_coder
from diffpress.codecs.reverse_channel.interface import exp2

CODERS = [
    ("trellis", {"constraint_length": 8}),
    ("trellis", {"constraint_length": 12, "k": 4, "labels": 256}),
    ("trellis", {"constraint_length": 8, "variance": "unit"}),
    ("pfr", {"chunk_bits": 6}),
    ("pfr", {"chunk_bits": 8, "mode": "truncated", "candidates": 200, "index_model": "zipf"}),
    ("pfr", {"chunk_bits": 5, "mode": "truncated", "scoring": "fused"}),
    ("pfr", {"chunk_bits": 5, "candidates": 3000, "variance": "unit"}),
]


def mean_for(size, bits, seed=0):
    """A mean whose KL is about `bits`."""
    rng = np.random.default_rng(seed)
    mu = rng.standard_normal(size) * np.sqrt(2 ** (2 * bits / size) - 1)
    return mu.astype(np.float32)


@pytest.mark.parametrize(("name", "options"), CODERS)
@pytest.mark.parametrize(("size", "bits"), [(1, 0.3), (1, 3.0), (3, 1.5), (37, 12.0), (1500, 25.0), (4096, 40.0)])
def test_decode_returns_the_encoders_sample(name, options, size, bits):
    coder = get_coder(name, **options)
    for key in (0, 2**64 - 1):
        mu = mean_for(size, bits, key % 97)
        payload, sample = coder.encode(mu, bits, key)
        assert isinstance(payload, bytes)
        assert isinstance(sample, np.ndarray)
        assert sample.dtype == np.float32
        assert np.array_equal(coder.decode(payload, size, bits, key, like=mu), sample)
        assert coder.payload_size(payload + b"\xff\x00\x55", size, bits, key) == len(payload)
        assert coder.payload_size(memoryview(payload), size, bits, key) == len(payload)
        assert coder.fixed_size(size, bits, key) == (len(payload) if name == "trellis" else None)
        assert 8 * len(payload) - 8 < coder.cost(payload, size, bits, key) <= 8 * len(payload) == coder.cost(payload)


@pytest.mark.parametrize(("name", "options"), CODERS[:1] + CODERS[3:4])
def test_random_sizes_and_budgets(name, options):
    coder = get_coder(name, **options)
    rng = np.random.default_rng(7)
    for key in range(12):
        size = int(2 ** rng.uniform(0, 9))
        bits = min(float(2 ** rng.uniform(-3, 6)), 4.0 * size)
        payload, sample = coder.encode(torch.from_numpy(mean_for(size, bits, key)), bits, key)
        assert isinstance(sample, torch.Tensor)
        assert torch.equal(coder.decode(payload, size, bits, key), sample)
        assert torch.isfinite(sample).all()


@pytest.mark.parametrize("name", ["pfr", "trellis"])
def test_twelve_bits_per_coordinate(name):
    options = {"pfr": {"mode": "truncated"}, "trellis": {"constraint_length": 12}}[name]
    mu = mean_for(20, 240.0)
    payload, sample = get_coder(name, **options).encode(mu, 240.0, 3)
    assert np.array_equal(get_coder(name, **options).decode(payload, 20, 240.0, 3), sample)
    # the mean is known to within some noise units, where its own deviation is 4096
    assert np.sqrt(np.mean((sample - mu) ** 2)) < {"pfr": 300, "trellis": 30}[name]


def digest(name):
    coder = get_coder(name, **({"constraint_length": 8} if name == "trellis" else {"chunk_bits": 6}))
    payload, sample = coder.encode(mean_for(3000, 30.0), 30.0, 99)
    return hashlib.sha256(payload + sample.tobytes()).hexdigest()


@pytest.mark.parametrize("name", ["pfr", "trellis"])
def test_threads_do_not_matter(name):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = digest(name)
        torch.set_num_threads(2)
        assert digest(name) == one
    finally:
        torch.set_num_threads(before)


def test_fresh_process_decodes_the_same():
    mu = mean_for(5000, 60.0)
    expected = []
    code = "import sys, hashlib, numpy\nfrom diffpress.codecs.reverse_channel import get_coder\n"
    for name in ("pfr", "trellis"):
        options = {"chunk_bits": 5, "mode": "truncated"} if name == "pfr" else {"constraint_length": 8}
        payload, sample = get_coder(name, **options).encode(mu, 60.0, 42)
        code += f"s = get_coder({name!r}, **{options!r}).decode({payload!r}, 5000, 60.0, 42)\n"
        code += "print(hashlib.sha256(numpy.asarray(s).tobytes()).hexdigest())\n"
        expected.append(hashlib.sha256(sample.tobytes()).hexdigest())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected


@pytest.mark.parametrize(
    ("name", "size", "bits", "frozen"),
    [
        ("trellis", 3000, 200.0, "6e133d9c6e4771d0"),
        ("trellis", 50, 150.0, "162782c6fe3425ae"),
        ("pfr", 3000, 28.0, "26ce34f37c8472bc"),
        ("pfr", 5, 20.0, "d473d100626a0342"),
    ],
)
def test_frozen_samples(name, size, bits, frozen):
    """Files must stay decodable: digests of decoded samples, in which no search and no BLAS has a part."""
    coder = get_coder(name)
    data = bytes(range(7, 207, 3))
    payload = data[: coder.payload_size(data, size, bits, 77)]
    sample = coder.decode(payload, size, bits, 77)
    assert hashlib.sha256(sample.numpy().tobytes()).hexdigest()[:16] == frozen


@pytest.mark.parametrize("name", ["pfr", "trellis"])
def test_many(name):
    coder = get_coder(name, **({"constraint_length": 8} if name == "trellis" else {"chunk_bits": 6}))
    mus, bits, keys = [mean_for(50, 10.0), mean_for(200, 20.0)], [10.0, 20.0], [1, 2]
    pairs = coder.encode_many(mus, bits, keys)
    for pair, mu, b, key in zip(pairs, mus, bits, keys, strict=True):
        payload, sample = coder.encode(mu, b, key)
        assert pair[0] == payload
        assert np.array_equal(pair[1], sample)
    decoded = coder.decode_many([p for p, _ in pairs], [50, 200], bits, keys)
    assert all(np.array_equal(s, pair[1]) for s, pair in zip(decoded, pairs, strict=True))
    with pytest.raises(InputError, match="equal length"):
        coder.encode_many(mus, bits, [1])


@pytest.mark.parametrize("name", ["pfr", "trellis"])
@pytest.mark.parametrize(
    ("mu", "bits", "key", "message"),
    [
        ([np.nan, 1], 2.0, 1, "NaN"),
        ([np.inf, 1], 2.0, 1, "infinity"),
        ([], 2.0, 1, "at least one"),
        ([[1.0, 2.0]], 2.0, 1, "vector"),
        ([1.0, 2.0], 0.0, 1, "positive"),
        ([1.0, 2.0], -1.0, 1, "positive"),
        ([1.0, 2.0], np.nan, 1, "finite"),
        ([1.0, 2.0], np.inf, 1, "finite"),
        ([1.0, 2.0], 1e6, 1, "per coordinate"),
        ([1.0, 2.0], "3", 1, "number of bits"),
        ([1.0, 2.0], 3.0, "1", "integer"),
        ([1.0, 2.0], 3.0, 1.0, "integer"),
        ([1.0, 2.0], 3.0, True, "integer"),
        ([1.0, 2.0], 3.0, -1, "between"),
        ([1.0, 2.0], 3.0, 2**64, "between"),
    ],
)
def test_bad_input_is_named(name, mu, bits, key, message):
    with pytest.raises(InputError, match=message):
        get_coder(name).encode(np.array(mu, np.float32), bits, key)


@pytest.mark.parametrize("name", ["pfr", "trellis"])
def test_bad_kinds_and_payloads_are_named(name):
    coder = get_coder(name, **({"constraint_length": 8} if name == "trellis" else {"chunk_bits": 6}))
    with pytest.raises(InputError, match="NumPy array or a torch tensor"):
        coder.encode([1.0, 2.0], 2.0, 1)
    with pytest.raises(InputError, match="floating-point"):
        coder.encode(np.array([1, 2]), 2.0, 1)
    with pytest.raises(InputError, match="size"):
        coder.decode(b"", 0, 2.0, 1)
    payload, _ = coder.encode(mean_for(300, 20.0), 20.0, 1)
    with pytest.raises(PayloadError, match="bytes"):
        coder.decode(payload + b"\0", 300, 20.0, 1)
    for cut in range(len(payload)):
        with pytest.raises(PayloadError):
            coder.payload_size(payload[:cut], 300, 20.0, 1)
        with pytest.raises(PayloadError):
            coder.decode(payload[:cut], 300, 20.0, 1)
    assert issubclass(InputError, CoderError)
    assert issubclass(PayloadError, CoderError)
    assert issubclass(CoderError, ValueError)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("morse", {}, "available: pfr, trellis"),
        ("pfr", {"beam": 3}, "no option 'beam'"),
        ("pfr", {"mode": "lazy"}, "mode"),
        ("pfr", {"chunk_bits": 30}, "24 bits"),
        ("pfr", {"candidates": 1}, "candidates"),
        ("pfr", {"index_model": "uniform"}, "index model"),
        ("pfr", {"scoring": "guess"}, "scoring"),
        ("pfr", {"variance": 2.0}, "variance"),
        ("trellis", {"width": 3}, "no option 'width'"),
        ("trellis", {"k": 3}, "k must be"),
        ("trellis", {"constraint_length": 13}, "constraint length"),
        ("trellis", {"labels": 1000}, "power of two"),
        ("trellis", {"variance": 2.0}, "variance"),
    ],
)
def test_bad_options_are_named(name, options, message):
    with pytest.raises(InputError, match=message):
        get_coder(name, **options)


def test_random_bytes_never_crash_pfr():
    coder = get_coder("pfr")
    rng = np.random.default_rng(1)
    for _ in range(30):
        data = rng.bytes(12)
        try:
            size = coder.payload_size(data, 500, 40.0, 3)
        except PayloadError:
            continue
        assert coder.decode(data[:size], 500, 40.0, 3).shape == (500,)


def test_tiny_budgets_are_spent_on_average():
    """Steps far below one byte send nothing most of the time, and what they should on average."""
    coder = get_coder("trellis", constraint_length=8)
    sizes = [coder.payload_size(bytes(2), 100, 0.5, key) for key in range(1500)]
    assert set(sizes) == {0, 1}
    assert np.mean(sizes) * 8 == pytest.approx(0.5 * 1.41, rel=0.2)
    payload, sample = coder.encode(mean_for(100, 0.5), 0.5, sizes.index(0))
    assert payload == b""
    assert sample.std() == pytest.approx(1, abs=0.3)


def test_large_step_stays_within_memory():
    """Many coordinates and few bits: the codebook must not grow with the coordinates of a stage."""
    mu = mean_for(400_000, 16.0)
    coder = get_coder("trellis", constraint_length=8)
    payload, sample = coder.encode(mu, 16.0, 1)
    assert np.array_equal(coder.decode(payload, 400_000, 16.0, 1), sample)
    assert len(payload) <= 4


def test_exp2_is_exact_to_rounding():
    for x in np.linspace(-3, 24, 1000):
        assert exp2(float(x)) == pytest.approx(2.0**x, rel=3e-15)
    assert exp2(5.0) == 32.0
