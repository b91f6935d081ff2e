"""The end of a run: what it returns is scored on the report rows, exported and recorded."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from msft_lite.core import MILLION, ROOT, Score, Verdict
from msft_lite.data.grade import text_of
from msft_lite.data.task import Question, Task
from msft_lite.ledger import Row, score_columns
from msft_lite.recipe import Recipe
from msft_lite.run.evaluator import Evaluation
from msft_lite.run.roller import Roller
from msft_lite.run.workshop import Workshop
from msft_lite.snapshot.durable import remove_durably, write_durably
from msft_lite.snapshot.export import export_best

EXAMPLES_FORMAT = 1
EXAMPLES_OF_A_KIND = 2  # rows of every task that went from right to wrong, and so on
MOST_PROMPT_TOKENS = 400  # shown of a question whose training row is too long


def finish(recipe: Recipe, shop: Workshop, roller: Roller, verdict: Verdict) -> None:
    """Scores base and result on the report rows, exports the result and closes the ledger."""
    started = time.monotonic()
    asked = {"base": ROOT, "best": verdict.snapshot}
    if verdict.last:
        asked["last"] = verdict.last
    found = _reported(recipe, shop, roller, asked)
    if found["base"].answers:
        content = examples(shop, found["base"], found["best"])
        write_durably(shop.folder.examples, json.dumps(content, ensure_ascii=False).encode())
    export_best(
        roller.weights(verdict.snapshot),
        shop.folder.best,
        model=shop.model,
        tokenizer=shop.tokenizer,
    )
    remove_durably(shop.folder.crash_copy)  # there is nothing left to train
    roller.retain(set(asked.values()))  # all that is asked for again if the row is not written
    scores = {name: evaluation.scores for name, evaluation in found.items()}
    row = _finish_row(shop, verdict, scores, time.monotonic() - started)
    shop.ledger.append({**row, "written_bytes": roller.newly_written_bytes()})
    tidy(shop)


def tidy(shop: Workshop) -> None:
    """Removes what a finished run has no more use for.

    Raises:
        StorageError: the folder is read-only or gone.
    """
    finished = shop.ledger.recorded("finish")
    assert finished is not None
    kept = {finished["snapshot"]}
    if shop.store.stored().keys() - kept:
        shop.store.retain(kept)


def examples(shop: Workshop, base: Evaluation, best: Evaluation) -> Mapping[str, Any]:
    """Returns a few report rows of every task with what the base and the result made of them.

    The first rows of every kind: answered right or not before, and right or not after.
    """
    tasks = {
        task.name: [
            _example(shop, task, row, base=base, best=best)
            for row in _telling(task.name, base, best)
        ]
        for task in shop.tasks
    }
    return {"format": EXAMPLES_FORMAT, "tasks": tasks}


def _telling(task: str, base: Evaluation, best: Evaluation) -> list[int]:
    kinds: dict[tuple[bool, bool], list[int]] = {}
    pairs = zip(base.scores[task].rows, best.scores[task].rows, strict=True)
    for row, (before, after) in enumerate(pairs):
        kinds.setdefault((before > 0, after > 0), []).append(row)
    return sorted(row for rows in kinds.values() for row in rows[:EXAMPLES_OF_A_KIND])


def _example(
    shop: Workshop, task: Task, row: int, *, base: Evaluation, best: Evaluation
) -> Mapping[str, Any]:
    question = task.report[row]
    sides = {
        name: {"output": of.answers[task.name][row], "worth": _worth(of.scores[task.name], row)}
        for name, of in (("base", base), ("best", best))
    }
    return {"row": row, "prompt": _prompt(shop, question), "gold": question.gold, **sides}


def _prompt(shop: Workshop, question: Question) -> str:
    """Returns the question without its shots, if it can be told from them."""
    example = question.example
    ids = question.prompt[-MOST_PROMPT_TOKENS:] if example is None else example.prompt
    return text_of(shop.tokenizer, ids)


def _worth(score: Score, row: int) -> int:
    return score.rows[row] if score.is_graded else score.rows[row] * MILLION


def _reported(
    recipe: Recipe, shop: Workshop, roller: Roller, asked: Mapping[str, str]
) -> Mapping[str, Evaluation]:
    """Returns what snapshots are worth on the report rows; those of marks if these steered."""
    if recipe.eval.steer_on == "report" and recipe.method.signal == "metric":
        known = {name: shop.ledger.scores_of(snapshot) for name, snapshot in asked.items()}
        if all(len(scores) == len(shop.tasks) for scores in known.values()):
            return {name: Evaluation(scores) for name, scores in known.items()}
    found: dict[str, Evaluation] = {}
    for snapshot in dict.fromkeys(asked.values()):
        found[snapshot] = roller.report(snapshot)
    return {name: found[snapshot] for name, snapshot in asked.items()}


def _finish_row(
    shop: Workshop, verdict: Verdict, scores: Mapping[str, Mapping[str, Score]], seconds: float
) -> Row:
    columns = {name: score_columns(of) for name, of in scores.items()}
    return {
        "kind": "finish",
        **_place(shop, verdict.snapshot),
        "last": _place(shop, verdict.last) if verdict.last else None,
        "note": verdict.note,
        "scores": {name: of["scores"] for name, of in columns.items()},
        "outcomes": {name: of["outcomes"] for name, of in columns.items()},
        "seconds": {"finish": seconds},
    }


def _place(shop: Workshop, snapshot: str) -> Row:
    """Returns a snapshot and where it was scored first, on as many tasks as it ever was."""
    rows = (row for row in shop.ledger.rows if row["kind"] == "mark")
    found = (row for row in rows if row["snapshot"] == snapshot)
    place = max(found, key=lambda row: len(row["scores"]))
    return {"snapshot": snapshot, "n": place["n"], "k": place["k"]}
