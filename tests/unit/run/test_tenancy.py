"""How a run settles, before it begins, who holds the weights; no engine is started."""

from __future__ import annotations

from dataclasses import asdict
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from msft_lite.engine.tenancy import Tenancy
from msft_lite.errors import EngineError
from msft_lite.recipe import Recipe, load
from msft_lite.report.plain import PlainWatcher
from msft_lite.run.build import build_workshop, start_row
from msft_lite.run.folder import RunFolder
from msft_lite.run.tenancy import settled_tenancy
from msft_lite.run.workshop import Workshop

# Not `importorskip`: the tests' process is the trainer's, which never imports vllm.
pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is in the extras alone")


def settled(recipe: Recipe) -> tuple[Workshop, str]:
    said = StringIO()
    watch = PlainWatcher(Console(file=said, width=200))
    folder = RunFolder(recipe.output_dir)
    with folder.opened("new"):
        shop = settled_tenancy(build_workshop(recipe, folder, watch, mode="new"))
    return shop, said.getvalue()


def recipe_of(path: Path, *changes: str) -> Recipe:
    where = [f"output_dir={path.parent / 'run'}", f"data.cache_dir={path.parent / 'cache'}"]
    return load(path, [*where, *changes])


@pytest.fixture
def odd_model(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A model whose k and v would begin within a line of 64 bytes."""
    config = AutoConfig.from_pretrained(
        tiny_model_folder, hidden_size=24, num_attention_heads=2, head_dim=12
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "odd")
    AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(tmp_path / "odd")
    return tmp_path / "odd"


@pytest.mark.parametrize(
    ("changes", "kind"),
    [((), "resident"), (("engine.share_weights=true",), "share")],
)
def test_on_a_cpu_weights_are_shared_only_if_asked(
    small_recipe: Path, changes: tuple[str, ...], kind: str
) -> None:
    recipe = recipe_of(small_recipe, "engine.name=vllm", *changes)
    shop, said = settled(recipe)
    assert shop.tenancy is not None
    assert shop.tenancy == Tenancy("share" if kind == "share" else "resident")
    assert (shop.shared is not None) == (kind == "share")
    assert shop.tenancy.line in said
    assert start_row(recipe, shop)["tenancy"] == asdict(shop.tenancy)


def test_without_vllm_nothing_is_settled(small_recipe: Path) -> None:
    recipe = recipe_of(small_recipe)
    shop, said = settled(recipe)
    assert shop.tenancy is None
    assert "memory of the engine" not in said
    assert start_row(recipe, shop)["tenancy"] is None


def test_weights_that_cannot_be_shared_stop_a_run_that_wants_it(
    small_recipe: Path, odd_model: Path
) -> None:
    changes = ("engine.name=vllm", f"model.name_or_path={odd_model}", "engine.share_weights=true")
    with pytest.raises(EngineError, match=r"share_weights = true: .*qkv_proj\.\w+ do not fit"):
        settled(recipe_of(small_recipe, *changes))
