"""Starts the engine that a recipe asks for, and what scores weights through it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path

from huggingface_hub import snapshot_download
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from msft_lite.data.grade import text_of
from msft_lite.data.task import Task
from msft_lite.engine.base import EvalEngine
from msft_lite.engine.canary import PROBE_NEW_TOKENS, Canary, tolerance_of
from msft_lite.engine.torch_engine import TorchEngine
from msft_lite.engine.vllm_engine import VllmEngine, VllmSettings
from msft_lite.errors import ModelError, RecipeError
from msft_lite.model.adapter import adapter_config
from msft_lite.model.folder import local_folder
from msft_lite.model.settings import ModelSettings
from msft_lite.recipe import Recipe
from msft_lite.run.evaluator import Evaluator
from msft_lite.run.workshop import Workshop

PROBES = 4  # prompts that the canary sends through engine and trainer after every swap
PROBE_TOKENS = 96  # three blocks of the engine's prefix cache, so that a stale block shows


def longest_answer(tasks: Sequence[Task]) -> int:
    """Returns the most tokens of a question and its answer together."""
    return max(
        len(question.prompt) + task.max_new_tokens
        for task in tasks
        for question in (*task.control, *task.report)
    )


def engine_length(tasks: Sequence[Task]) -> int:
    """Returns the most tokens that the engine must hold of one sequence."""
    probe = max(len(ids) for ids in probes(tasks)) + PROBE_NEW_TOKENS
    return max(longest_answer(tasks), probe)


def probes(tasks: Sequence[Task]) -> list[tuple[int, ...]]:
    """Returns the canary's prompts: control questions, strung together to `PROBE_TOKENS`."""
    strung = [chain.from_iterable(q.prompt for q in task.control) for task in tasks[:PROBES]]
    return [tuple(islice(ids, PROBE_TOKENS)) for ids in strung]


def check_lengths(tasks: Sequence[Task], model: PreTrainedModel | PeftModel) -> None:
    """Checks that the model has positions enough for every question and its answer.

    Raises:
        RecipeError: it has fewer.
    """
    positions: int = model.config.get_text_config().max_position_embeddings
    if engine_length(tasks) > positions:
        raise RecipeError(
            f"a question and its answer take up to {engine_length(tasks)} tokens, the model has "
            f"{positions} positions: lower eval.max_prompt_length or eval.max_new_tokens"
        )


def engine_python(recipe: Recipe) -> str:
    """Returns the interpreter that runs vllm."""
    return str(recipe.engine.python or sys.executable)


def build_engine(recipe: Recipe, shop: Workshop) -> EvalEngine:
    """Starts the engine and returns at once; it gets ready while training begins.

    Raises:
        EngineError: it cannot be started.
    """
    table = recipe.engine
    if shop.choice.kind == "torch":
        return TorchEngine(
            shop.model,
            eos_ids=end_ids(shop),
            pad_id=pad_id(shop.tokenizer),
            **({} if table.batch_size is None else {"batch_size": table.batch_size}),
        )
    chosen = {
        "kv_cache_bytes": table.kv_cache_bytes,
        "gpu_memory_utilization": table.gpu_memory_utilization,
        "enforce_eager": table.enforce_eager,
        "max_num_seqs": table.max_num_seqs,
    }
    return VllmEngine(
        VllmSettings(
            model_folder=base_folder(shop.settings),
            dtype=shop.settings.dtype,
            max_model_len=engine_length(shop.tasks),
            eos_ids=end_ids(shop),
            log_path=shop.folder.engine_log,
            adapter=adapter_config(shop.model) if shop.settings.tuning == "lora" else None,
            python=engine_python(recipe),
            threads=table.threads,
            trust_remote_code=shop.settings.trust_remote_code,
            start_timeout_seconds=table.start_timeout_seconds,
            call_timeout_seconds=table.call_timeout_seconds,
            **{key: value for key, value in chosen.items() if value is not None},
        )
    )


def build_evaluator(shop: Workshop, engine: EvalEngine) -> Evaluator:
    """Returns what scores weights through ``engine``."""
    canary = Canary(
        probes(shop.tasks),
        tolerance=tolerance_of(shop.settings.dtype, shop.settings.device),
        log_probabilities=shop.trainer.log_probabilities,
    )
    return Evaluator(
        engine, canary, tasks=shop.tasks, decode=lambda ids: text_of(shop.tokenizer, ids)
    )


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the token id that fills rows up."""
    padding = tokenizer.pad_token_id
    if not isinstance(padding, int):
        raise ModelError("the tokenizer has no padding token; set pad_token in its configuration")
    return padding


def end_ids(shop: Workshop) -> tuple[int, ...]:
    """Returns the token ids that end an answer: the tokenizer's, and the model's own."""
    generation = shop.model.generation_config
    own: int | list[int] | None = None if generation is None else generation.eos_token_id
    ids = [shop.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return tuple(sorted({token for token in ids if isinstance(token, int)}))


def base_folder(settings: ModelSettings) -> Path:
    """Returns the folder of the base model; a model of the hub is in its cache by now."""
    folder = local_folder(settings.name_or_path)
    if folder is not None:
        return folder
    return Path(
        snapshot_download(settings.name_or_path, revision=settings.revision, local_files_only=True)
    )
