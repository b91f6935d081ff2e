"""Fused kernels that a recipe asks for and this machine does not have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from msft_lite.errors import ModelError, RecipeError
from msft_lite.model.load import ModelSettings, load_model
from msft_lite.recipe import load
from msft_lite.run import kernels
from msft_lite.run.build import model_settings, train_settings
from msft_lite.run.kernels import check_layer_kernels, check_loss_kernel, prediction_notes
from msft_lite.run.survey import survey

CUDA = ModelSettings("", device="cuda", dtype="bfloat16")


def missing(name: str) -> str:
    return f"{name} is gone"


@pytest.mark.skipif(torch.cuda.is_available(), reason="is of a machine without a GPU")
def test_check_tells_that_auto_is_the_cpu_here(small_recipe: Path) -> None:
    for key in ('train.loss_kernel = "liger"', "model.liger_kernels = true"):
        recipe = load(small_recipe, [key.replace(" = ", "=")])
        with pytest.raises(RecipeError, match='model.device = "auto" is the CPU here') as caught:
            train_settings(recipe, model_settings(recipe))
        assert str(caught.value).startswith(key)
        assert str(caught.value) in survey(recipe).problems


def test_what_is_not_installed_is_told_with_the_way_to_get_it(
    small_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "missing_package", missing)
    monkeypatch.setattr(kernels, "is_installed", lambda: False)
    with pytest.raises(RecipeError, match="liger is gone is not installed: pip install liger is"):
        check_loss_kernel("liger", CUDA)
    check_loss_kernel("auto", CUDA)
    check_loss_kernel("chunked", CUDA)
    table = load(small_recipe, ["model.liger_kernels=true", "model.device=cuda"]).model
    with pytest.raises(RecipeError, match="liger-kernel is not installed: pip install liger-ke"):
        check_layer_kernels(table, "cuda")
    check_layer_kernels(load(small_recipe).model, "cuda")


def test_a_prediction_says_what_it_leaves_out(
    small_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "missing_package", lambda name: None if name == "liger" else name)
    plain, fused = load(small_recipe), load(small_recipe, ["model.liger_kernels=true"])
    chunked = load(small_recipe, ["train.loss_kernel=chunked"])
    for recipe, count in ((plain, 1), (fused, 1), (chunked, 0)):
        assert len(prediction_notes(recipe, "cuda")) == count
        assert prediction_notes(recipe, "cpu") == ()
    monkeypatch.setattr(kernels, "missing_package", missing)
    assert prediction_notes(plain, "cuda") == ()


def test_cut_cross_entropy_takes_no_float32() -> None:
    with pytest.raises(RecipeError, match='takes no float32, which the model is in; take "auto"'):
        check_loss_kernel("cut_cross_entropy", ModelSettings("", device="cuda", dtype="float32"))


def test_a_model_on_the_cpu_takes_no_fused_layers(tiny_model_folder: Path) -> None:
    with pytest.raises(ModelError, match="liger_kernels: the kernels are for NVIDIA GPUs"):
        load_model(ModelSettings(str(tiny_model_folder), liger_kernels=True), seed=1)
