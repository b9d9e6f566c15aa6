"""python -m diffpress.doctor: what a bug report needs to name."""

from __future__ import annotations

import pytest
import torch

from diffpress import doctor, resource
from diffpress.lightning_modules.identity import fingerprint


def test_report_names_versions_models_and_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "SIDE", 64)  # a smaller photo, not another way
    assert doctor.main() == 0
    said = capsys.readouterr().out
    assert f"torch {torch.__version__.split('+')[0]}" in said
    assert "file format 2" in said
    assert f"model diffc-pixel: {fingerprint(resource('checkpoints/diffc-pixel')).hex()}" in said
    assert "64 x 64 at 0.5 bpp on cpu: " in said
    assert "machine: processor " in said
    assert "PyTorch computes with " in said
