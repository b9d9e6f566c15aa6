"""Where results come from: the command, the versions of everything that codes, and the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch
from PIL import features

PACKAGES = ("diffpress", "torch", "lightning", "constriction", "diffusers", "pillow", "pillow-jxl-plugin", "numpy")
_LIBRARIES = {
    "jpg": "libjpeg",
    "libjpeg_turbo": "libjpeg-turbo",
    "jpg_2000": "OpenJPEG",
    "webp": "libwebp",
    "avif": "libavif",
}


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of Python, `packages` and image libraries by name; what is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            if package == "diffpress":  # run from a checkout
                from diffpress import __version__

                found[package] = __version__
    for feature, name in _LIBRARIES.items():
        version = features.version(feature)
        if version:
            found[name] = version
    return found


def machine() -> dict[str, str]:
    """Processor, cores, memory, GPU and operating system."""
    info = {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "system": f"{platform.system()} {platform.release()}",
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        info["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    if torch.cuda.is_available():
        info["gpu"] = torch.cuda.get_device_name()
    return info


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
