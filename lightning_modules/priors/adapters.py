"""Denoisers and diffusion networks of other libraries as priors, and the words that name one on a command line.

``deepinv:DRUNet``, ``package.module:name`` and ``file.py:name`` name a denoiser, a class of denoisers, or a function
without parameters that makes one; the functions below fit a network's conventions to function.py.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..identity import ModelError, of_module
from ..networks.denoiser import SIGMA_DATA
from .function import DenoiserFunction, FunctionPrior, TimestepFunction, parameters_of

DEEPINV_RANGE = (0.0, 50 / 255)  # of DeepInverse's denoisers, as DRUNet was trained (Zhang et al. 2021)
DEEPINV_DIFFUSION = {"ADMUNet": (0.001, 40.0), "DiffUNet": (0.005, 78.0), "NCSNpp": (0.001, 40.0)}


def edm(network: nn.Module, sigma_range: tuple[float, float] | None = None, **options: Any) -> DenoiserFunction:
    """D(x; sigma) of images in [-1, 1] (Karras et al. 2022, eq. 7): EDM, k-diffusion's denoisers, consistency models.

    network      called with x [B, 3, h, w] and sigma [B]
    sigma_range  None: its sigma_min and sigma_max
    options      of DenoiserFunction
    A consistency model's f(x, sigma) (Song et al. 2023) is a sample rather than the mean, so its steps cost more.
    """
    try:
        least, largest = sigma_range or (float(network.sigma_min), float(network.sigma_max))  # type: ignore[arg-type]
    except AttributeError:
        raise ModelError("an EDM network without sigma_min and sigma_max needs a sigma_range") from None

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return network(x, torch.full((len(x),), sigma, device=x.device))

    options = {"value_range": (-1.0, 1.0), "modules": [network], "identity": digest(network)} | options
    return DenoiserFunction(denoise, (least, largest), **options)


class Preconditioned(nn.Module):
    """D(x; sigma) = c_skip x + c_out F(c_in x, c_noise) of a bare F, for `edm`.

    network      F(x [B, C, h, w], c_noise [B]), of diffusers or not
    noise_input  c_noise as a function of sigma [B]; None: ln(sigma) / 4
    boundary     sigma at which D(x) = x: 0 (Karras et al. 2022, table 1), or a consistency model's sigma_min (Song et
                 al. 2023, app. C)
    """

    def __init__(
        self, network: nn.Module, sigma_data: float = SIGMA_DATA, boundary: float = 0.0,
        noise_input: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.sigma_data, self.boundary = network, sigma_data, boundary
        self.noise_input = noise_input or (lambda sigma: sigma.log() / 4)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """[B, C, h, w] of x [B, C, h, w] and sigma [B]."""
        noise = sigma.view(-1, 1, 1, 1)
        beyond, scale = noise - self.boundary, (noise**2 + self.sigma_data**2).sqrt()
        skip = self.sigma_data**2 / (beyond**2 + self.sigma_data**2)
        output = self.network(x / scale, self.noise_input(sigma))
        output = output if isinstance(output, Tensor) else output.sample  # diffusers wraps it
        return skip * x + beyond * self.sigma_data / scale * output


def consistency_model(folder: Path, device: str | torch.device = "cpu") -> DenoiserFunction:
    """The ConsistencyModelPipeline of diffusers in `folder`, unconditional; raises ModelError."""
    from diffusers import CMStochasticIterativeScheduler, UNet2DModel

    network = UNet2DModel.from_pretrained(folder / "unet", local_files_only=True, low_cpu_mem_usage=False)
    if network.config["num_class_embeds"]:
        raise ModelError(f"{folder} needs the class of an image, which a codec does not know")
    settings = CMStochasticIterativeScheduler.from_pretrained(folder / "scheduler", local_files_only=True).config

    model = Preconditioned(network, settings["sigma_data"], settings["sigma_min"], lambda sigma: 250 * sigma.log())
    limits = (settings["sigma_min"], settings["sigma_max"])
    return edm(model, limits, multiple=2 ** (len(network.config["block_out_channels"]) - 1), device=device)


def guided_diffusion(network: nn.Module, alphas_cumprod: Sequence[float] | Tensor, **options: Any) -> TimestepFunction:
    """A network of guided-diffusion (Dhariwal and Nichol 2021) or improved-diffusion; see TimestepFunction."""
    options = {"modules": [network], "identity": digest(network)} | options
    return TimestepFunction(network, alphas_cumprod, **options)


def azula(denoiser: Any, **options: Any) -> DenoiserFunction:
    """A denoiser of Azula (azula.denoise.Denoiser) on images in [-1, 1].

    Azula's denoisers take any schedule, so this one gets alpha = 1 and sigma_t = t.
    """
    ends = [denoiser.schedule(torch.tensor(t)) for t in (0.0, 1.0)]
    least, largest = (float(sigma / alpha) for alpha, sigma in ends)
    denoiser.schedule = lambda t: (torch.ones_like(t), t)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        return denoiser(x, torch.full((len(x),), sigma, device=x.device)).mean

    options = {"value_range": (-1.0, 1.0), "modules": [denoiser], "identity": digest(denoiser)} | options
    return DenoiserFunction(denoise, (least, largest), **options)


def digest(*modules: nn.Module) -> str:
    """Hexadecimal digits that tell networks from all others: their classes and weights."""
    names = [f"{type(one).__module__}.{type(one).__qualname__}" for one in modules]
    return of_module({"modules": names}, nn.ModuleList(modules).state_dict()).hex()


# ---- by name ---------------------------------------------------------------------------------------------------------


def named_prior(name: str, device: str | torch.device = "cpu") -> FunctionPrior:
    """The prior that `name`, MODULE:NAME or FILE.py:NAME, stands for; raises ModelError in one sentence.

    What is found may be a FunctionPrior; a denoiser of Azula; or a module or function with denoise's signature
    (DenoiserFunction).  For the latter, ``sigma_range`` and, where it is not [0, 1], ``value_range``, stand on it or
    beside it in its module.
    """
    where, _, what = name.rpartition(":")
    module = _imported("deepinv.models" if where == "deepinv" else where, name)
    try:
        found = getattr(module, what)
    except AttributeError:
        raise ModelError(f"{where} has no {what!r}") from None
    try:
        while inspect.isclass(found) or (inspect.isfunction(found) and parameters_of(found) == 0):
            found = found()
    except Exception as error:  # of somebody else's code: no weights, no network, no package
        raise ModelError(f"{name} cannot be made here: {' '.join(str(error).split())[:300]}") from error
    return _as_prior(found, name, module).to(device)


def _as_prior(found: Any, name: str, module: ModuleType) -> FunctionPrior:
    if isinstance(found, FunctionPrior):
        return found
    if not callable(found):
        raise ModelError(f"{name} is a {type(found).__name__}, and no denoiser")
    if "azula.denoise" in {cls.__module__ for cls in type(found).__mro__}:
        return azula(found)
    modules = [found] if isinstance(found, nn.Module) else _modules_in(found)
    sigma_range = getattr(found, "sigma_range", getattr(module, "sigma_range", None))
    if module.__name__ == "deepinv.models":
        sigma_range = DEEPINV_DIFFUSION.get(type(found).__name__, DEEPINV_RANGE)
    if sigma_range is None:
        raise ModelError(f"{name} does not say for which noise it is: write sigma_range = (0.0, 0.2), say, beside it")
    value_range = getattr(found, "value_range", getattr(module, "value_range", (0.0, 1.0)))
    source = Path(module.__file__).read_bytes() if inspect.isfunction(found) and module.__file__ else b""
    identity = f"{hashlib.sha256(source).hexdigest()} {digest(*modules)}"
    return DenoiserFunction(found, sigma_range, identity, value_range=value_range, modules=modules)


def _modules_in(function: Any) -> list[nn.Module]:
    """The networks that a function reaches: those it names or is bound to."""
    if not (inspect.isfunction(function) or inspect.ismethod(function)):
        return []
    names = inspect.getclosurevars(function)
    reached: Iterable[Any] = [*names.nonlocals.values(), *names.globals.values(), getattr(function, "__self__", None)]
    return [one for one in reached if isinstance(one, nn.Module)]


def _imported(where: str, name: str) -> ModuleType:
    """The module of that name, or of that file ending in .py."""
    try:
        if not where.endswith(".py"):
            return importlib.import_module(where)
        path = Path(where)
        if not path.is_file():
            raise ModelError(f"there is no file {where}")
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except ModelError:
        raise
    except ModuleNotFoundError as error:
        package = (error.name or where).partition(".")[0]
        raise ModelError(f"{name} needs the package {package}, which is not installed") from error
    except Exception as error:  # of somebody else's code: no weights, a slip
        raise ModelError(f"{where} cannot be run: {' '.join(str(error).split())[:300]}") from error
