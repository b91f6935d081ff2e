"""How weights reach vLLM, and what is told of it before a run."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from msft_lite.engine.handover import SHARED_MEMORY
from msft_lite.model.dense import dense_bytes
from msft_lite.model.settings import ModelSettings
from msft_lite.recipe import load
from msft_lite.report.wording import bytes_text
from msft_lite.run.engines import engine_choice
from msft_lite.run.handover import handover_of, room_line, too_large
from msft_lite.run.memory import passing_lines, steps_found
from msft_lite.run.survey import survey

QLORA, DORA = "model.load_in_4bit=true", "model.use_dora=true"
ONCE = "once, the 4-bit base dequantised; removed when vllm has loaded it"
MERGED = "at every evaluation, base and adapter merged; removed after it"
WHOLE = "at every evaluation, all weights; removed after it"


ON_CPU = ModelSettings("", device="cpu", dtype="float32")
ON_GPU = ModelSettings("", device="cuda", dtype="bfloat16")


@pytest.mark.parametrize(
    ("settings", "how"),
    [
        (ON_GPU, "adapter"),
        (replace(ON_GPU, dtype="float32"), "adapter"),
        (replace(ON_GPU, use_rslora=True), "adapter"),
        (replace(ON_GPU, load_in_4bit=True), "adapter over the dequantised base"),
        (replace(ON_GPU, use_dora=True), "merged"),
        (replace(ON_GPU, use_dora=True, load_in_4bit=True), "merged"),
        (replace(ON_GPU, tuning="full"), "full"),
        (ON_CPU, "merged"),
        (replace(ON_CPU, dtype="bfloat16"), "adapter"),
        (replace(ON_CPU, load_in_4bit=True), "adapter over the dequantised base"),
        (replace(ON_CPU, tuning="full"), "full"),
    ],
)
def test_the_way_follows_from_the_tuning(
    small_recipe: Path, settings: ModelSettings, how: str
) -> None:
    assert handover_of(load(small_recipe), settings) == how


def test_an_adapter_over_a_shared_base_is_not_merged(small_recipe: Path) -> None:
    recipe = load(small_recipe, ["engine.name=vllm", "engine.share_weights=true"])
    assert handover_of(recipe, ON_CPU) == "adapter"


def test_a_4_bit_base_is_not_put_on_a_small_gpu_a_second_time() -> None:
    """Qwen3-8B has 16.4 GB in bfloat16: 24 GB hold it once in 4 bits, not beside that dense."""
    assert too_large(16_381_470_720, 80 << 30) == ""
    told = too_large(16_381_470_720, 24 << 30)
    assert "dequantised, 16.4 GB, more than half of this GPU" in told
    assert 'engine.name = "vllm" tries it' in told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ((), MERGED),
        (("model.dtype=bfloat16",), ""),
        ((QLORA,), ONCE),
        ((DORA,), MERGED),
        ((QLORA, DORA), MERGED),
        (("model.tuning=full", "model.lora_r=", "model.lora_alpha="), WHOLE),
    ],
    ids=["lora", "lora in bfloat16", "qlora", "dora", "qdora", "full"],
)
def test_check_tells_what_passes_and_counts_a_dense_base_for_the_engine(
    small_recipe: Path, changes: tuple[str, ...], told: str
) -> None:
    pytest.importorskip("bitsandbytes")
    if find_spec("vllm") is None:  # the tests' process is the trainer's, which never imports it
        pytest.skip("vllm is in the extras alone")
    recipe = load(small_recipe, [*changes, "engine.name=auto", "engine.kv_cache_bytes=1000"])
    assert engine_choice(recipe).kind == "vllm"
    steps = steps_found(recipe, survey(recipe))
    assert steps is not None
    dense = dense_bytes(steps.settings)
    buffers = steps.base_bytes - dense  # angles of the positions
    assert 0 < buffers < 0.04 * dense
    assert steps.engine_bytes == steps.base_bytes + 1000
    size = bytes_text(steps.base_bytes)
    wanted = [f"through {SHARED_MEMORY} to vllm: {size} {told}"] if told else []
    assert passing_lines(recipe, steps) == wanted
    torch = load(small_recipe, [*changes, "engine.name=torch"])
    without = steps_found(torch, survey(torch))
    assert without is not None
    assert passing_lines(torch, without) == []


def test_where_shared_memory_is_too_small_the_run_folder_is_named(tmp_path: Path) -> None:
    line = room_line("merged", 1 << 60, run_folder=tmp_path)
    assert line.startswith(f"through {tmp_path} to vllm: 1.15e+06 TB")
