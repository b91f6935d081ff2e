"""Starts the engine that a recipe asks for, and what scores weights through it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import chain, islice

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from msft_lite.data.grade import text_of
from msft_lite.data.metric import LOSS
from msft_lite.data.task import Question, Task
from msft_lite.engine.base import EvalEngine
from msft_lite.engine.canary import PROBE_NEW_TOKENS, Canary, tolerance_of
from msft_lite.engine.choose import Choice, choose_engine
from msft_lite.engine.dequantised import DequantisedBase
from msft_lite.engine.handover import SHARED_MEMORY, remove_stale_folders
from msft_lite.engine.merged import MergingEngine
from msft_lite.engine.torch_engine import TorchEngine
from msft_lite.engine.vllm_engine import VllmEngine, VllmSettings
from msft_lite.errors import DataError, ModelError, RecipeError
from msft_lite.model.adapter import adapter_config
from msft_lite.model.folder import base_folder
from msft_lite.recipe import Recipe
from msft_lite.run.evaluator import Answers, Evaluator, Losses, loss_rows, prompt_of
from msft_lite.run.handover import handover_of, too_large_for_auto
from msft_lite.run.workshop import Workshop

NO_ENGINE = Choice("none", "engine: none, as every score is a loss, which the trainer computes")
PROBES = 4  # prompts that the canary sends through engine and trainer after every swap
PROBE_TOKENS = 96  # three blocks of the engine's prefix cache, so that a stale block shows


def longest_answer(tasks: Sequence[Task]) -> int:
    """Returns the most tokens of a question and its answer together."""
    return max(
        len(prompt.ids) + prompt.max_new_tokens
        for task in tasks
        for question in (*task.control, *task.report)
        for prompt in [prompt_of(task, question)]
    )


def engine_length(tasks: Sequence[Task]) -> int:
    """Returns the most tokens that the engine must hold of one sequence."""
    probe = max(len(ids) for ids in probes(tasks)) + PROBE_NEW_TOKENS
    return max(longest_answer(tasks), probe)


def probes(tasks: Sequence[Task]) -> list[tuple[int, ...]]:
    """Returns the canary's prompts: control questions, strung together to `PROBE_TOKENS`."""
    strung = [chain.from_iterable(q.prompt for q in task.control) for task in tasks[:PROBES]]
    return [tuple(islice(ids, PROBE_TOKENS)) for ids in strung]


def engine_choice(recipe: Recipe) -> Choice:
    """Returns the engine of a run; `NO_ENGINE` where nothing is generated.

    Raises:
        EngineError: vllm was asked for, but its interpreter does not have it.
    """
    if all((task.metric or recipe.eval.metric) == LOSS for task in recipe.tasks):
        return NO_ENGINE
    return choose_engine(
        recipe.engine.name,
        python=engine_python(recipe),
        only_torch=too_large_for_auto(recipe),
    )


def check_scoring(
    recipe: Recipe, tasks: Sequence[Task], model: PreTrainedModel | PeftModel
) -> None:
    """Checks that every task can be scored on its control rows, and on its report rows.

    Raises:
        RecipeError: the model has too few positions for a question and its answer.
        DataError: no row of a split that is scored by its loss is short enough to have one.
    """
    if not _is_scored_by_loss(tasks):
        _check_lengths(tasks, model)
    for task in tasks:
        if _is_steered_by_loss(recipe, tasks):
            _check_losses(recipe, task, "control", task.control)
        if _is_scored_by_loss(tasks):
            _check_losses(recipe, task, "report", task.report)


def _is_scored_by_loss(tasks: Sequence[Task]) -> bool:
    # A recipe has this metric for all tasks or for none.
    return all(task.metric.name == LOSS for task in tasks)


def _is_steered_by_loss(recipe: Recipe, tasks: Sequence[Task]) -> bool:
    return recipe.method.signal == LOSS or _is_scored_by_loss(tasks)


def _check_losses(recipe: Recipe, task: Task, split: str, questions: Sequence[Question]) -> None:
    if not loss_rows(questions):
        raise DataError(
            f"task {task.name!r}: none of its {len(questions)} {split} rows has an answer that "
            f"fits train.max_length = {recipe.train.max_length}, so it has no loss; raise that"
        )


def _check_lengths(tasks: Sequence[Task], model: PreTrainedModel | PeftModel) -> None:
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
    for place in (SHARED_MEMORY, shop.folder.path):  # of a run that was killed, perhaps another
        remove_stale_folders(place)
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
    how, folder = handover_of(recipe, shop.settings), base_folder(shop.settings)
    base = None
    if how == "adapter over the dequantised base":
        base = DequantisedBase(shop.model, folder, fallback=shop.folder.path)
        folder = base.folder
    engine = VllmEngine(
        VllmSettings(
            model_folder=folder,
            dtype=shop.settings.dtype,
            max_model_len=engine_length(shop.tasks),
            eos_ids=end_ids(shop),
            log_path=shop.folder.engine_log,
            adapter=adapter_config(shop.model) if how.startswith("adapter") else None,
            python=engine_python(recipe),
            threads=table.threads,
            trust_remote_code=shop.settings.trust_remote_code,
            start_timeout_seconds=table.start_timeout_seconds,
            call_timeout_seconds=table.call_timeout_seconds,
            shared=shop.shared,
            must_share=table.share_weights is True,
            sleep_level=0 if shop.tenancy is None else shop.tenancy.sleep_level,
            **{key: value for key, value in chosen.items() if value is not None},
        ),
        base=base,
    )
    return MergingEngine(engine, shop.model) if how == "merged" else engine


def build_evaluator(recipe: Recipe, shop: Workshop) -> Evaluator:
    """Returns what scores weights; no engine is started before it is asked whether it is ready."""
    answers, losses = _answers(recipe, shop), Losses(shop.trainer.losses)
    return Evaluator(
        shop.tasks,
        control=losses if _is_steered_by_loss(recipe, shop.tasks) else answers,
        report=losses if _is_scored_by_loss(shop.tasks) else answers,
    )


def _answers(recipe: Recipe, shop: Workshop) -> Answers:
    canary = Canary(
        probes(shop.tasks),
        tolerance=tolerance_of(shop.settings.dtype, shop.settings.device),
        log_probabilities=shop.trainer.log_probabilities,
    )
    return Answers(
        lambda: build_engine(recipe, shop),
        canary,
        decode=lambda ids: text_of(shop.tokenizer, ids),
        meanwhile=shop.trainer.parked if _parks_moments(shop) else nullcontext,
    )


def _parks_moments(shop: Workshop) -> bool:
    return shop.tenancy is not None and shop.tenancy.parks_moments


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
