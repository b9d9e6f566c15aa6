"""Shared randomness: Philox known answers, the normal table, rows that do not depend on their neighbours."""

import hashlib
from importlib import resources

import numpy as np
import pytest
import torch

from diffpress import kernels
from diffpress.kernels import KernelError, get_backend
from diffpress.kernels.backend import SHA256, normal_table, philox_numpy, philox_torch, split64

# kat_vectors of the Random123 distribution (philox4x32, 10 rounds): counter, key, result
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_philox_known_answers(counter, key, result):
    numpy = philox_numpy(np.array(counter, np.uint32)[:, None], key)
    assert numpy[:, 0].tolist() == list(result)
    assert philox_torch(torch.tensor(counter)[:, None], key)[:, 0].tolist() == list(result)


def test_words_are_philox_of_position_and_stream():
    key, stream, counter = 0x0123456789ABCDEF, 0xFEDCBA9876543210, (5 << 32) + 7
    words = get_backend("cpu").random_words(key, stream, torch.tensor([3, counter]))
    block = np.array([7, 5, *split64(stream)], np.uint32)[:, None]
    assert words[1].tolist() == philox_numpy(block, split64(key))[:, 0].tolist()


def test_torch_path_equals_numpy_path():
    cpu, other = get_backend("cpu"), kernels.Backend()
    other.device = torch.device("meta")  # any device but the CPU takes the torch path
    counters = torch.arange(5000) * 977
    expected = cpu.random_words(11, 1 << 40, counters)
    assert torch.equal(other._words_on_device(11, 1 << 40, counters).T, expected)


def test_normal_table_is_the_shipped_one():
    data = resources.files(kernels).joinpath("normal_u16.npy").read_bytes()
    table = normal_table()
    assert hashlib.sha256(table[32768:].tobytes()).hexdigest() == SHA256
    assert data.endswith(table[32768:].tobytes())
    assert np.array_equal(table, -table[::-1])
    assert (np.diff(table) > 0).all()
    moments = [np.mean(table.astype(np.float64) ** p) for p in (1, 2, 4)]
    assert abs(moments[0]) < 1e-12
    assert abs(moments[1] - 1) < 1e-6
    assert abs(moments[2] - 3) < 0.01


def test_rows_do_not_depend_on_each_other():
    backend = get_backend("cpu")
    rows = torch.tensor([3, 0, 900, 3])
    for width in (1, 8, 37, 300):
        full = backend.normal_rows(5, 6, torch.arange(901), width, 64)
        assert torch.equal(backend.normal_rows(5, 6, rows, width, 64), full[rows])
        assert torch.equal(backend.normal_rows(5, 6, rows, 300, 64)[:, :width], full[rows])
        signs = backend.sign_rows(5, 6, torch.arange(901), width)
        assert torch.equal(backend.sign_rows(5, 6, rows, width), signs[rows])


def test_normals_and_signs_are_white():
    backend = get_backend("cpu")
    z = backend.normal_rows(1, 2, torch.arange(400), 500).double().reshape(-1)
    assert abs(z.mean()) < 4 / 200000**0.5
    assert abs(z.var() - 1) < 4 * (2 / 200000) ** 0.5
    assert abs((z[1:] * z[:-1]).mean()) < 4 / 200000**0.5
    signs = backend.sign_rows(1, 2, torch.arange(400), 500).reshape(-1)
    assert set(signs.tolist()) == {1.0, -1.0}
    assert abs(signs.mean()) < 4 / 200000**0.5


def test_keys_and_streams_separate():
    backend = get_backend("cpu")
    rows = torch.arange(1)
    a = backend.normal_rows(1, 2, rows, 4000)[0]
    for key, stream in [(2, 2), (1, 3), (1 + (1 << 32), 2), (1, 2 + (1 << 32))]:
        b = backend.normal_rows(key, stream, rows, 4000)[0]
        assert abs((a * b).mean()) < 4 / 4000**0.5


def test_errors():
    with pytest.raises(KernelError, match="unknown backend"):
        get_backend("tpu")
    with pytest.raises(KernelError, match="pitch"):
        get_backend("cpu").normal_rows(1, 2, torch.arange(3), 64, 7)
    if not torch.cuda.is_available():
        with pytest.raises(KernelError, match="GPU"):
            get_backend("cuda")
        assert get_backend().name == "cpu"
