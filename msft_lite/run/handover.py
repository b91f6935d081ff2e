"""In which form the trained weights reach vLLM, and the room that this takes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from msft_lite.engine.handover import place_of
from msft_lite.errors import ModelError
from msft_lite.model.dense import dense_bytes
from msft_lite.model.load import resolve_device
from msft_lite.model.settings import ModelSettings
from msft_lite.recipe import Recipe
from msft_lite.report.wording import bytes_text

Handover = Literal["adapter", "adapter over the dequantised base", "merged", "full"]
LARGEST_SHARE = 0.5  # of a GPU, that a dense copy of a 4-bit base may take without being asked for
HOW: dict[Handover, str] = {
    "adapter": "its adapter is swapped at every evaluation",
    "adapter over the dequantised base": (
        "it gets the 4-bit base, dequantised, once, and the adapter at every evaluation"
    ),
    "merged": "adapter and base are merged on their way to it at every evaluation",
    "full": "all weights go to it at every evaluation",
}


def handover_of(recipe: Recipe, settings: ModelSettings) -> Handover:
    """Returns how vLLM is given the weights of a model that is tuned as ``settings`` say.

    On a CPU vLLM copies an adapter for every token, which takes five times as long as the base
    alone. In float32 an adapter is merged there instead: it loses no more than by adding up.
    """
    if settings.tuning == "full":
        return "full"
    if settings.use_dora:
        return "merged"
    if settings.load_in_4bit:
        return "adapter over the dequantised base"
    in_float32 = (settings.device, settings.dtype) == ("cpu", "float32")
    return "merged" if in_float32 and not may_share(recipe, settings) else "adapter"


def may_share(recipe: Recipe, settings: ModelSettings) -> bool:
    """Returns whether vllm is to compute with the trainer's weights, if it then can."""
    wanted = recipe.engine.share_weights
    is_meant = settings.device == "cuda" if wanted == "auto" else wanted
    return is_meant and not (settings.load_in_4bit or settings.use_dora)


def room_line(how: Handover, base_bytes: int, *, run_folder: Path) -> str:
    """Returns what passes through which folder, and how often.

    Args:
        how: the weights reach vLLM, other than as a plain adapter.
        base_bytes: of a dense copy of the model.
        run_folder: where the weights pass if shared memory is too small; it need not exist.
    """
    place = place_of(base_bytes, run_folder)
    passing = f"through {place} to vllm: {bytes_text(base_bytes)}"
    if how == "adapter over the dequantised base":
        return f"{passing} once, the 4-bit base dequantised; removed when vllm has loaded it"
    what = "base and adapter merged" if how == "merged" else "all weights"
    return f"{passing} at every evaluation, {what}; removed after it"


def too_large_for_auto(recipe: Recipe) -> str:
    """Returns why ``engine.name = "auto"`` takes the torch engine though vLLM is there, or nothing.

    A model that is held in 4 bits because the GPU is small must not be put on it a second time in
    four times the size. It depends on the recipe and the GPU alone, so a resumed run decides alike.
    """
    table = recipe.model
    if not table.load_in_4bit or recipe.engine.name != "auto":
        return ""
    if resolve_device(table.device) == "cpu":
        return ""
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    settings = ModelSettings(
        name_or_path=table.name_or_path,
        revision=table.revision,
        dtype="bfloat16" if table.dtype == "auto" else table.dtype,
        trust_remote_code=table.trust_remote_code,
    )
    try:
        return too_large(dense_bytes(settings), total)
    except ModelError:  # told where the model is loaded
        return ""


def too_large(base_bytes: int, gpu_bytes: int) -> str:
    """Returns why a dense copy of that size is not put on such a GPU, or nothing."""
    if base_bytes <= LARGEST_SHARE * gpu_bytes:
        return ""
    return (
        f"vllm would hold the 4-bit base dequantised, {bytes_text(base_bytes)}, more than half of "
        f'this GPU; engine.name = "vllm" tries it'
    )
