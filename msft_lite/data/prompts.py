"""From rows to token ids: prompts, answers, shots and what to do when they are too long."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msft_lite.data.sources import Message, Row
from msft_lite.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """A tokenised row: the loss is on ``answer``, which ends with the end-of-text token."""

    prompt: Ids
    answer: Ids


@dataclass(frozen=True, slots=True)
class PromptParts:
    """What a prompt is made of: the row to answer and the rows shown before it."""

    row: Row
    shots: tuple[Row, ...] = ()


def encode_rows(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[Pair]:
    """Returns the ids of every row, whatever their length.

    A plain row's prompt starts with the tokenizer's beginning-of-text token if it adds one. A
    chat's prompt is the template of all but the last message, with the generation prompt; its
    answer is what the template of the whole chat adds to it.

    Args:
        rows: rows of one form, plain or chats.
        tokenizer: of the model to train.

    Raises:
        ModelError: the tokenizer has no end-of-text token.
        DataError: there is no chat template for a chat, it refuses the chat, or the whole chat
            does not start with its prompt.
    """
    end = _end_token(tokenizer)
    prompts = encode_prompts([PromptParts(row) for row in rows], tokenizer)
    if not any(row.messages for row in rows):
        answers = _ids_of([row.answer for row in rows], tokenizer)
        return [Pair(p, (*a, end)) for p, a in zip(prompts, answers, strict=True)]
    whole = [_render(row.messages, row.where, tokenizer=tokenizer, complete=True) for row in rows]
    fulls = _ids_of(whole, tokenizer)
    return [
        Pair(p, _chat_answer(p, full, end=end, where=row.where))
        for p, full, row in zip(prompts, fulls, rows, strict=True)
    ]


def encode_prompts(parts: Sequence[PromptParts], tokenizer: PreTrainedTokenizerBase) -> list[Ids]:
    """Returns the ids of every prompt, whatever their length.

    Without shots they are the ids of the training prompt. Shots of plain rows are put before it
    as ``prompt + answer + blank line``; shots of chats are earlier turns, after the row's own
    leading system messages and without theirs.

    Raises:
        DataError: there is no chat template for a chat, it refuses the chat, or a prompt has no
            tokens.
    """
    if any(part.row.messages for part in parts):
        texts = [
            _render(_chat_with_shots(part), part.row.where, tokenizer=tokenizer, complete=False)
            for part in parts
        ]
        prompts = _ids_of(texts, tokenizer)
    else:
        texts = [
            "".join(f"{shot.prompt}{shot.answer}\n\n" for shot in part.shots) + part.row.prompt
            for part in parts
        ]
        prompts = _prompt_ids_of(texts, tokenizer)
    for part, ids in zip(parts, prompts, strict=True):
        if not ids:
            raise DataError(f"{part.row.where}: the tokenizer makes no token of the prompt")
    return prompts


def fit_training(
    pairs: Iterable[Pair], *, max_length: int, start: int | None
) -> tuple[list[Pair], int, int]:
    """Returns the pairs within ``max_length``, how many were shortened, how many left out.

    Tokens are cut from the left of the prompt, never from the answer. A pair whose answer leaves
    no room for a token of the prompt is left out.

    Args:
        pairs: tokenised rows.
        max_length: most tokens of prompt and answer together.
        start: beginning-of-text token, which stays at the start of a prompt.
    """
    kept: list[Pair] = []
    shortened = left_out = 0
    for pair in pairs:
        room = max_length - len(pair.answer)
        if min(len(pair.prompt), room) <= (pair.prompt[:1] == (start,)):
            left_out += 1
            continue
        shortened += len(pair.prompt) > room
        kept.append(Pair(cut_left(pair.prompt, room, start=start), pair.answer))
    return kept, shortened, left_out


def fit_prompts(
    parts: Sequence[PromptParts], tokenizer: PreTrainedTokenizerBase, *, max_prompt_length: int
) -> tuple[list[Ids], int, int]:
    """Returns prompts within ``max_prompt_length``, how many lost shots, how many were cut.

    Whole shots go first, the earliest before the others; then tokens from the left.
    """
    parts = list(parts)
    prompts = encode_prompts(parts, tokenizer)
    lost_shots: set[int] = set()
    while over := [
        i for i, ids in enumerate(prompts) if len(ids) > max_prompt_length and parts[i].shots
    ]:
        for i in over:
            parts[i] = PromptParts(parts[i].row, parts[i].shots[1:])
        for i, ids in zip(over, encode_prompts([parts[i] for i in over], tokenizer), strict=True):
            prompts[i] = ids
        lost_shots.update(over)
    cut = sum(len(ids) > max_prompt_length for ids in prompts)
    start = start_token(tokenizer)
    fitted = [cut_left(ids, max_prompt_length, start=start) for ids in prompts]
    return fitted, len(lost_shots), cut


def cut_left(ids: Ids, length: int, *, start: int | None) -> Ids:
    """Returns the last ``length`` of ``ids``, the first of them ``start`` if ``ids`` has it first.

    Models that are trained with a beginning-of-text token lose their bearings without it.
    """
    if len(ids) <= length:
        return ids
    head = ids[:1] if ids[:1] == (start,) else ()
    return head + ids[len(ids) - (length - len(head)) :]


def start_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Returns the beginning-of-text token, if the tokenizer has one."""
    return tokenizer.bos_token_id if isinstance(tokenizer.bos_token_id, int) else None


def _end_token(tokenizer: PreTrainedTokenizerBase) -> int:
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise ModelError(
            f"the tokenizer {tokenizer.name_or_path!r} has no end-of-text token, so no answer "
            "could end; set eos_token in its tokenizer_config.json"
        )
    return end


def _prompt_ids_of(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[Ids]:
    """Returns ids with the tokenizer's leading special tokens, once, and no trailing one."""
    start, end = start_token(tokenizer), tokenizer.eos_token_id
    ends = bool(texts) and end is not None and _call(["a"], tokenizer, special=True)[0][-1] == end
    prompts: list[Ids] = []
    for ids in _call(texts, tokenizer, special=True):
        # A text that spells the start token out would otherwise start twice.
        doubled = start is not None and ids[:2] == [start, start]
        prompts.append(tuple(ids[doubled : len(ids) - ends]))
    return prompts


def _ids_of(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[Ids]:
    return [tuple(ids) for ids in _call(texts, tokenizer, special=False)]


def _call(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, *, special: bool
) -> list[list[int]]:
    if not texts:
        return []
    batch = tokenizer(texts, add_special_tokens=special, return_attention_mask=False, verbose=False)
    return batch["input_ids"]


def _chat_with_shots(part: PromptParts) -> tuple[Message, ...]:
    prompt = part.row.messages[:-1]
    turns = next((i for i, (role, _) in enumerate(prompt) if role != "system"), len(prompt))
    shown = tuple(m for shot in part.shots for m in shot.messages if m[0] != "system")
    return prompt[:turns] + shown + prompt[turns:]


def _render(
    messages: Sequence[Message],
    where: str,
    *,
    tokenizer: PreTrainedTokenizerBase,
    complete: bool,
) -> str:
    if not tokenizer.chat_template:
        raise DataError(
            f"{where}: the row is a chat, but the tokenizer {tokenizer.name_or_path!r} has no "
            "chat template; use prompt and answer, or a model that was tuned for chats"
        )
    chat = [{"role": role, "content": content} for role, content in messages]
    try:
        text = tokenizer.apply_chat_template(
            chat, tokenize=False, add_generation_prompt=not complete
        )
    # A template is a program of the model's author: jinja raises what the program raises.
    except Exception as error:
        raise DataError(
            f"{where}: the chat template refuses the messages: {error}; change their roles or order"
        ) from error
    return str(text)


def _chat_answer(prompt: Ids, full: Ids, *, end: int, where: str) -> Ids:
    """Returns what ``full`` adds to ``prompt``, up to and with the end-of-text token."""
    if full[: len(prompt)] != prompt:
        at = next((i for i, (a, b) in enumerate(zip(prompt, full, strict=False)) if a != b), None)
        place = f"at token {len(full) if at is None else at}"
        raise DataError(
            f"{where}: the template of the whole chat does not start with the template of its "
            f"prompt (they differ {place}), so the answer cannot be told apart; use prompt and "
            "answer, or another chat template"
        )
    answer = full[len(prompt) :]
    if end not in answer:
        return (*answer, end)
    # Templates often write a line feed after the end token; generation stops before it.
    return answer[: len(answer) - answer[::-1].index(end)]
