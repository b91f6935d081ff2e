"""Fused kernels that a recipe asks for: whether this machine has them, and what is to be told."""

from __future__ import annotations

import torch

from msft_lite.errors import RecipeError
from msft_lite.model.fused_layers import PACKAGE, is_installed
from msft_lite.model.loss_kernel import LossKernel, missing_package, resolve_loss_kernel
from msft_lite.model.settings import Device, LossKernelChoice, ModelSettings
from msft_lite.recipe import Recipe
from msft_lite.recipe.models import ModelTable


def check_layer_kernels(table: ModelTable, device: Device) -> None:
    """Checks that fused layers can be had where they are asked for.

    Raises:
        RecipeError: the model is trained on a CPU, or the library is not installed.
    """
    if not table.liger_kernels:
        return
    if device == "cpu":
        raise RecipeError(
            'model.liger_kernels = true: model.device = "auto" is the CPU here, and the kernels '
            "are for NVIDIA GPUs; take it out"
        )
    if not is_installed():
        raise RecipeError(
            f"model.liger_kernels = true: {PACKAGE} is not installed: pip install {PACKAGE}, or "
            "take it out"
        )


def check_loss_kernel(name: LossKernelChoice, model: ModelSettings) -> None:
    """Checks that a loss kernel that is named can be had, as far as can be told without the model.

    Raises:
        RecipeError: the model is trained on a CPU or in another dtype, or it is not installed.
    """
    if name in ("auto", "chunked"):
        return
    key = f'train.loss_kernel = "{name}"'
    if model.device == "cpu":
        raise RecipeError(
            f'{key}: model.device = "auto" is the CPU here, and the kernel is for NVIDIA GPUs; '
            'take "chunked" or "auto"'
        )
    if name == "cut_cross_entropy" and model.dtype == "float32":
        raise RecipeError(f'{key}: takes no float32, which the model is in; take "auto"')
    if (package := missing_package(name)) is not None:
        raise RecipeError(
            f'{key}: {package} is not installed: pip install {package}, or take "auto"'
        )


def loss_kernel(recipe: Recipe, model: torch.nn.Module) -> LossKernel:
    """Returns how the losses of ``model`` are computed in training.

    Raises:
        ModelError: the recipe names a kernel that cannot be used with it.
    """
    return resolve_loss_kernel(
        recipe.train.loss_kernel, model, deterministic=recipe.train.deterministic
    )


def prediction_notes(recipe: Recipe, device: str) -> tuple[str, ...]:
    """Returns what is to be known of the memory that is predicted for a GPU."""
    name = recipe.train.loss_kernel
    is_fused = recipe.model.liger_kernels or (
        name != "chunked" and missing_package("liger" if name == "auto" else name) is None
    )
    if device != "cuda" or not is_fused:
        return ()
    return (
        "predicted with the loss in chunks and the layers of transformers: fused kernels compute "
        "nothing from shapes alone",
    )


def layers_line() -> str:
    """Returns what to tell of fused layers."""
    return f"norms, rotary positions and gated layers: the fused kernels of {PACKAGE}"
