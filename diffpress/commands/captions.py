"""What images show, in words: from a file that somebody wrote, or from a BLIP model that looks at them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..codecs import CodecError
from ..data.images import to_pil
from ..lightning_modules import ModelError
from ..lightning_modules.priors.components import download

PromptOf = Callable[[Path, torch.Tensor], str]
LONGEST = 40  # tokens


def read_captions(file: Path) -> dict[str, str]:
    """Image name -> caption, from a JSON object or from lines ``NAME<tab>CAPTION``; raises CodecError."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CodecError(f"{file} cannot be read: {error}") from None
    if file.suffix == ".json":
        try:
            table = json.loads(text)
        except ValueError as error:
            raise CodecError(f"{file} is not JSON: {error}") from None
        if not isinstance(table, dict) or not all(isinstance(caption, str) for caption in table.values()):
            raise CodecError(f"{file} must hold one JSON object of captions by image name")
        return table
    captions = {}
    for number, line in enumerate(text.splitlines(), 1):
        name, tab, caption = line.partition("\t")
        if line.strip() and not tab:
            raise CodecError(f"{file}, line {number}: expected a name, a tab and a caption")
        if tab:
            captions[name.strip()] = caption.strip()
    return captions


def prompts_from(captions: Path) -> PromptOf:
    """Looks an image's caption up by its file name, with or without suffix; raises CodecError where it has none."""
    table = read_captions(captions)

    def prompt(source: Path, image: torch.Tensor) -> str:
        for name in (source.name, source.stem):
            if name in table:
                return table[name]
        raise CodecError(f"{captions} has no caption for it")

    return prompt


def prompts_by(model: str, device: str | None = None, local_files_only: bool = False) -> PromptOf:
    """Captions by a BLIP model (folder or hub id), e.g. Salesforce/blip-image-captioning-base; raises ModelError."""
    source: Any = Path(model)
    if not source.is_dir():
        # at once and before transformers, which asks the hub for one file after the other and retries each for long
        source = download(model, ["*.json", "*.txt", "*.safetensors"], local_files_only=local_files_only)
        if not list(source.glob("*.safetensors")):
            source = model  # transformers also knows the safetensors that the hub converted from other weights
    from transformers import BlipForConditionalGeneration, BlipProcessor

    try:
        processor = BlipProcessor.from_pretrained(source, local_files_only=local_files_only)
        network = BlipForConditionalGeneration.from_pretrained(
            source, use_safetensors=True, local_files_only=local_files_only
        )
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{model} cannot be loaded as a BLIP model: {' '.join(str(error).split())[:300]}") from error
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    network.to(place).eval()

    @torch.inference_mode()
    def prompt(source: Path, image: torch.Tensor) -> str:
        inputs = processor(images=to_pil(image), return_tensors="pt").to(place)
        tokens = network.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)
        return processor.decode(tokens[0], skip_special_tokens=True).strip()

    return prompt
