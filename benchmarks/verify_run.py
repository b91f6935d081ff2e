"""Checks a finished run without the program that made it: its decisions and its returned model.

    python benchmarks/verify_run.py RUN_FOLDER [--decisions-only | --without-vllm]

1. Every decision is worked out again from the scores in ledger.jsonl by Algorithm 1 of the mSFT
   paper: where each stage starts and with which tasks, who leaves, what is returned.
2. ``best/`` is loaded by peft (an adapter) or transformers (a full model) and answers all report
   rows greedily; each outcome must be the recorded one.
3. The same with a newly started vLLM.

Nothing of msft_lite is imported: what is right is written here a second time. Exit code 0: all
agrees; 1: something does not; 2: this run cannot be checked, and why.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

AGREES, DISAGREES, CANNOT_TELL = 0, 1, 2
SPLITS = ("control", "report")
KV_CACHE_BYTES = 1 << 28
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # what vLLM takes as max_lora_rank
VLLM_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")

Row = Mapping[str, Any]


class CannotTellError(Exception):
    """This run cannot be checked; the message says why."""


@dataclass(frozen=True, slots=True)
class Check:
    """What was worked out again, whether the run has the same, and if not what it has."""

    what: str
    agrees: bool
    recorded: object = ""


@dataclass(frozen=True, slots=True)
class Stage:
    """A roll-out with its marks in order, and what was decided on them."""

    rollout: Row
    marks: Sequence[Row]
    drops: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Question:
    """A report row as token ids."""

    task: str
    ids: tuple[int, ...]
    gold: str
    grade: str
    max_new_tokens: int


def main() -> int:
    """Checks the run that the command line names and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run_folder", type=Path)
    parser.add_argument("--decisions-only", action="store_true", help="load no model")
    parser.add_argument("--without-vllm", action="store_true", help="leave part 3 out")
    arguments = parser.parse_args()
    agreed = wrong = 0
    try:
        for check in all_checks(arguments):
            agreed, wrong = agreed + check.agrees, wrong + (not check.agrees)
            line = f"agree     {check.what}"
            print(line if check.agrees else f"DISAGREE  {check.what}; recorded: {check.recorded}")
    except (CannotTellError, FileNotFoundError) as error:
        print(f"cannot be checked: {error}")
        return CANNOT_TELL
    print(f"{agreed} of {agreed + wrong} checks agree with {arguments.run_folder}")
    return DISAGREES if wrong else AGREES


def all_checks(arguments: argparse.Namespace) -> Iterator[Check]:
    """Makes the checks that were asked for.

    Raises:
        CannotTellError: there is no finished run, or something of it is not in its folder.
    """
    folder: Path = arguments.run_folder
    lines = (folder / "ledger.jsonl").read_text(encoding="utf-8").split("\n")
    rows: list[Row] = [json.loads(line) for line in lines[:-1]]  # what follows the last is torn
    recipe = tomllib.loads((folder / "recipe.toml").read_text(encoding="utf-8"))
    if not rows or rows[-1]["kind"] != "finish":
        raise CannotTellError(f"{folder} holds an unfinished run: its last row is no finish")
    yield from counts(rows)
    yield from decisions(rows, recipe)
    if arguments.decisions_only:
        return
    questions = report_questions(folder, rows[0], recipe)
    recorded = rows[-1]["outcomes"]["best"]
    best = folder / "best"
    reader = "peft" if base_of(best) else "transformers"
    yield from outcomes(reader, transformers_texts(best, questions), questions, recorded=recorded)
    if not arguments.without_vllm:
        yield from outcomes("vLLM", vllm_texts(best, questions), questions, recorded=recorded)


# 1. The decisions


def counts(rows: Sequence[Row]) -> Iterator[Check]:
    """Checks that every score is the count of its outcomes, on as many rows as were announced."""
    asked = {split: {t: n[split] for t, n in rows[0]["rows"].items()} for split in SPLITS}
    marks = [(stage.rollout, mark) for stage in stages_of(rows) for mark in stage.marks]
    every, wrong = rows[0].get("dropped_every", 1), []
    for rollout, mark in marks:
        is_whole = mark["k"] % every == 0 or mark["k"] == len(rollout["marks"])
        tasks = asked["control"] if is_whole else rollout["tasks"]
        if not counted(mark["scores"], mark["outcomes"], {t: asked["control"][t] for t in tasks}):
            wrong.append(f"stage {mark['n']} mark {mark['k']}")
    yield Check(f"scores are counts of outcomes at {len(marks)} marks", not wrong, wrong)
    for which, scores in rows[-1]["scores"].items():
        ok = counted(scores, rows[-1]["outcomes"][which], asked["report"])
        yield Check(f"scores are counts of outcomes in the report of the {which}", ok, scores)


def counted(scores: Row, outcomes: Row, asked: Mapping[str, int]) -> bool:
    """Returns whether ``scores`` are what ``outcomes`` say, for all tasks and all rows."""
    return set(scores) == set(outcomes) == set(asked) and all(
        scores[task] == [text.count("1"), len(text)] and len(text) == asked[task]
        for task, text in outcomes.items()
    )


def decisions(rows: Sequence[Row], recipe: Row) -> Iterator[Check]:
    """Works Algorithm 1 out again from the recorded scores."""
    start, method = rows[0], recipe["method"]
    if (method["name"], method.get("detector")) != ("msft", "peak"):
        raise CannotTellError("only msft with the detector peak is known here")
    stages = stages_of(rows)
    most_stages = method.get("max_stages") or 2 * len(start["tasks"]) + 2
    active, head = list(start["tasks"]), "root"
    for n, stage in enumerate(stages, start=1):
        row = stage.rollout
        yield Check(f"stage {n} starts from {head[:12]}", row["start"] == head, row["start"][:12])
        yield Check(f"stage {n} trains {', '.join(active)}", row["tasks"] == active, row["tasks"])
        yield marks_are_whole(n, stage, epochs=method["budget"], start=start)
        leaving = overfitted(stage.marks, active, method)
        yield left(n, stage, leaving)
        head = leaving[0][2] if leaving else stage.marks[-1]["snapshot"]
        active = [task for task in active if task not in {task for task, _, _ in leaving}]
    ended = not active or len(stages) == most_stages
    yield Check(f"ends after stage {len(stages)} with {active or 'no task'} active", ended)
    yield returned(stages, rows[-1])


def stages_of(rows: Sequence[Row]) -> list[Stage]:
    """Returns the roll-outs in order."""

    def of(kind: str, n: int) -> list[Row]:
        return [row for row in rows if row["kind"] == kind and row["n"] == n]

    rollouts = [row for row in rows if row["kind"] == "rollout"]
    return [Stage(row, of("mark", row["n"]), of("drop", row["n"])) for row in rollouts]


def marks_are_whole(n: int, stage: Stage, *, epochs: int, start: Row) -> Check:
    """Checks that a stage has all its marks, at equal parts of passes over the active rows."""
    parts = start["marks_per_epoch"]
    rows = sum(-(-start["rows"][task]["train"] // parts) for task in stage.rollout["tasks"])
    steps = [k * -(-rows // start["batch_rows"]) for k in range(epochs * parts + 1)]
    found = [(mark["k"], mark["step"]) for mark in stage.marks]
    ok = found == list(enumerate(steps)) and stage.rollout["marks"] == steps[1:]
    ok = ok and stage.marks[0]["snapshot"] == stage.rollout["start"]
    what = f"stage {n} has marks 0 (its start) to {epochs * parts}, {steps[1]} steps each"
    return Check(what, ok, found)


def overfitted(
    marks: Sequence[Row], active: Sequence[str], method: Row
) -> list[tuple[str, int, str]]:
    """Returns who leaves: task, peak mark and the snapshot there; empty if nobody over-fitted."""
    last = marks[-1]
    first = 0 if method["start_counts"] else 1
    peaks: list[tuple[int, str, str]] = []
    for task in active:
        top = max(value(mark, task) for mark in marks[first:])
        peak = next(mark for mark in marks[first:] if value(mark, task) == top)
        if peak["k"] < last["k"]:
            peaks.append((peak["k"], task, peak["snapshot"]))
    peaks.sort()
    tied = [peak for peak in peaks if peak[0] == peaks[0][0]]
    leaving = tied if method["drop_all_tied"] else tied[:1]
    return [(task, k, snapshot) for k, task, snapshot in leaving]


def value(mark: Row, task: str) -> Fraction:
    """Returns the share of right answers."""
    return Fraction(*mark["scores"][task])


def left(n: int, stage: Stage, leaving: Sequence[tuple[str, int, str]]) -> Check:
    """Checks who left, at which peak, and what was rolled back to."""
    recorded = [(row["task"], row["peak_mark"], row["rolled_back_to"]) for row in stage.drops]
    told = [f"drops {task}, back to mark {k} ({snap[:12]})" for task, k, snap in leaving]
    what = f"stage {n} {'; '.join(told) or 'drops nobody and goes on from its end'}"
    return Check(what, recorded == list(leaving), recorded)


def returned(stages: Sequence[Stage], finish: Row) -> Check:
    """Checks the returned snapshot: the earliest point with the best mean over all tasks."""
    count = len(stages[0].rollout["tasks"])
    points = [mark for stage in stages for mark in stage.marks if len(mark["scores"]) == count]
    means = [sum(value(mark, task) for task in mark["scores"]) for mark in points]
    top = points[means.index(max(means))]
    place, recorded = (tuple(row[key] for key in ("snapshot", "n", "k")) for row in (top, finish))
    mean = float(max(means)) / count
    what = f"returns {place[0][:12]}, stage {place[1]} mark {place[2]}, control mean {mean:.4f}"
    return Check(what, recorded == place, recorded)


# 2 and 3. The returned model


def report_questions(folder: Path, start: Row, recipe: Row) -> list[Question]:
    """Returns the report rows of all tasks as token ids, in the order of the outcomes.

    Raises:
        CannotTellError: the rows are not plainly those of a file, or rounding may differ.
    """
    from transformers import AutoTokenizer

    if start["dtype"] != "float32":
        raise CannotTellError(
            f"the run is in {start['dtype']}, where two programs round differently; float32 is "
            "needed (or --decisions-only)"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder / "best")
    return [
        question
        for task in recipe["tasks"]
        for question in task_questions(task, start, recipe=recipe, tokenizer=tokenizer)
    ]


def task_questions(task: Row, start: Row, *, recipe: Row, tokenizer: Any) -> Iterator[Question]:
    """Returns the report rows of one task."""
    name, table, grade = task["name"], recipe["eval"], task.get("grade", "marked")
    is_written = start.get("score", {}).get(name) != "logprob" and grade in ("marked", "exact")
    if set(start["metric"].values()) != {"accuracy"} or not is_written:
        raise CannotTellError(f"{name}: its metric, grade or score is not written here again")
    if "report_path" not in task or task.get("num_fewshot", table.get("num_fewshot", 0)):
        raise CannotTellError(f"{name}: the program chose the report rows or the shots")
    lines = Path(task["report_path"]).read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line.strip()]
    if len(rows) != (asked := start["rows"][name]["report"]):
        raise CannotTellError(f"{name}: {asked} of {len(rows)} rows were chosen by the program")
    if not all({"prompt", "answer"} <= set(row) for row in rows):
        raise CannotTellError(f"{name}: its rows are of another form")
    for row in rows:
        ids = tuple(tokenizer(row["prompt"])["input_ids"])
        if len(ids) > table["max_prompt_length"]:
            raise CannotTellError(f"{name}: a prompt is longer than max_prompt_length")
        limit = task.get("max_new_tokens", table.get("max_new_tokens", 512))
        yield Question(name, ids, row["answer"], grade, limit)


def outcomes(
    reader: str, texts: Sequence[str], questions: Sequence[Question], *, recorded: Row
) -> Iterator[Check]:
    """Compares the outcome of every question, told task by task."""
    by_task: dict[str, str] = {}
    for question, text in zip(questions, texts, strict=True):
        outcome = "1" if right(text, question) else "0"
        by_task[question.task] = by_task.get(question.task, "") + outcome
    for task, found in by_task.items():
        theirs = recorded[task]
        differing = [row for row, (a, b) in enumerate(zip(found, theirs, strict=True)) if a != b]
        what = f"{reader}: {task} {found.count('1')}/{len(found)} on the report rows"
        yield Check(what, not differing, f"{theirs.count('1')}, rows {differing} differ")


def right(output: str, question: Question) -> bool:
    """Returns whether ``output`` answers the question."""
    if question.grade == "exact":
        return output.strip() == question.gold.strip()
    ours, gold = marked(output), marked(question.gold)
    if NUMBER.fullmatch(ours) and NUMBER.fullmatch(gold):
        return float(ours) == float(gold)
    return ours.lower() == gold.lower()


def marked(text: str) -> str:
    """Returns what stands behind the first mark, or the whole text, without a final period."""
    found = re.search(r"#### (.*)", text)
    stripped = (found.group(1) if found else text).strip()
    return stripped[:-1] if stripped.endswith(".") else stripped


def transformers_texts(best: Path, questions: Sequence[Question]) -> list[str]:
    """Returns what the exported model answers when peft or transformers loads it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = base_of(best)
    model: Any = AutoModelForCausalLM.from_pretrained(base or best, dtype=torch.float32)
    if base is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, best)
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(best)
    ends = end_ids(tokenizer, base or best)
    texts: list[str] = []
    for question in questions:  # one at a time: no padding that could matter
        prompt = torch.tensor([question.ids])
        output = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=question.max_new_tokens,
            eos_token_id=ends,
            pad_token_id=ends[0],
        )
        texts.append(text_of(output[0, len(question.ids) :].tolist(), tokenizer))
    return texts


def vllm_texts(best: Path, questions: Sequence[Question]) -> list[str]:
    """Returns what the exported model answers in a vLLM of its own."""
    os.environ.update(VLLM_ENVIRONMENT)  # read when vllm is imported
    from transformers import AutoTokenizer
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    base = base_of(best)
    rank = 0 if base is None else json.loads((best / "adapter_config.json").read_text())["r"]
    lora = {"enable_lora": True, "max_lora_rank": next(r for r in LORA_RANKS if r >= rank)}
    model = LLM(
        model=str(base or best),
        dtype="float32",
        max_model_len=max(len(q.ids) + q.max_new_tokens for q in questions),
        kv_cache_memory_bytes=KV_CACHE_BYTES,
        gpu_memory_utilization=0.2,
        enforce_eager=True,
        generation_config="vllm",
        **({} if base is None else lora),
    )
    tokenizer = AutoTokenizer.from_pretrained(best)
    ends = end_ids(tokenizer, base or best)
    outputs = model.generate(
        [{"prompt_token_ids": list(question.ids)} for question in questions],
        [
            SamplingParams(temperature=0.0, max_tokens=q.max_new_tokens, stop_token_ids=ends)
            for q in questions
        ],
        use_tqdm=False,
        lora_request=None if base is None else LoRARequest("best", 1, str(best.resolve())),
    )
    return [text_of(output.outputs[0].token_ids, tokenizer) for output in outputs]


def base_of(best: Path) -> str | None:
    """Returns the base model that an adapter names; None for a full model."""
    file = best / "adapter_config.json"
    return json.loads(file.read_text())["base_model_name_or_path"] if file.exists() else None


def end_ids(tokenizer: Any, model: str | Path) -> list[int]:
    """Returns the token ids that end an answer: the tokenizer's and the model's own."""
    from transformers import GenerationConfig

    try:
        own = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:  # a model need not have the file
        own = None
    ends = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
    return sorted(end for end in ends if end is not None)


def text_of(ids: Sequence[int], tokenizer: Any) -> str:
    """Returns the text to grade."""
    return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


if __name__ == "__main__":
    sys.exit(main())
