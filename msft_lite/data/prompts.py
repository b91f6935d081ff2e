"""From rows to token ids: prompts, answers, shots and what to do when they are too long."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from msft_lite.data.chat import ChatTemplate, Transcript
from msft_lite.data.rows import Row
from msft_lite.data.task import Span
from msft_lite.data.token_cache import Ids, TokenCache, Tokens, key_of, tokenizer_digest
from msft_lite.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TEXTS_AT_ONCE = 1_000  # the tokenizer needs 100 bytes and more a token while it works
_SLACK_TOKENS = 16  # lengths told from another row are off by what merges at a shot's edges


@dataclass(frozen=True, slots=True)
class Pair:
    """A tokenised row.

    Attributes:
        prompt: ids before the first that carries loss.
        answer: the ids after them; they end with the end-of-text token.
        silent: stretches of ``answer`` without loss, in order.
    """

    prompt: Ids
    answer: Ids
    silent: tuple[Span, ...] = ()

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.answer)


class Encoder:
    """A tokenizer, what it needs of a model's conventions, and its cache."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, cache: TokenCache | None = None) -> None:
        """Keeps both; special tokens and chat template of ``tokenizer`` are settled by now."""
        self.template = ChatTemplate(tokenizer)
        self.tokenised = 0
        self.from_cache = 0
        self._tokenizer = tokenizer
        self._cache = cache

    @property
    def notes(self) -> tuple[str, ...]:
        """How many texts were tokenised and how many found, and what the cache suffers from."""
        counts = f"tokenised {self.tokenised:,} texts, {self.from_cache:,} more were in the cache"
        problem = self._cache.problem if self._cache else ""
        return (counts, problem) if problem else (counts,)

    @property
    def start(self) -> int | None:
        """The beginning-of-text token, if the tokenizer has one."""
        start = self._tokenizer.bos_token_id
        return start if isinstance(start, int) else None

    @property
    def end(self) -> int:
        """The end-of-text token.

        Raises:
            ModelError: the tokenizer has none.
        """
        end = self._tokenizer.eos_token_id
        if not isinstance(end, int):
            raise ModelError(
                f"the tokenizer {self._tokenizer.name_or_path!r} has no end-of-text token, so no "
                "answer could end; set eos_token in its tokenizer_config.json"
            )
        return end

    def ids(self, texts: Sequence[str]) -> list[Ids]:
        """Returns the ids of every text, without special tokens of the tokenizer's own."""
        return [tokens.ids for tokens in self._tokens(texts)]

    def tokens(self, texts: Sequence[str]) -> list[Tokens]:
        """Returns what `ids` does, and the characters that each token stands for.

        Raises:
            ModelError: the tokenizer does not know its tokens' places.
        """
        if not self._tokenizer.is_fast:
            raise ModelError(
                f"the tokenizer {self._tokenizer.name_or_path!r} does not tell where its tokens "
                "stand in a text, so chats with several answers cannot be learned with it; use "
                "one with a tokenizer.json"
            )
        return self._tokens(texts, places=True)

    def prompts(self, texts: Sequence[str]) -> list[Ids]:
        """Returns ids with the tokenizer's leading special tokens, once, and no trailing one."""
        prompts: list[Ids] = []
        for tokens in self._tokens(texts, special=True):
            ids = tokens.ids
            # A text that spells the start token out would otherwise start twice.
            doubled = self.start is not None and ids[:2] == (self.start, self.start)
            prompts.append(ids[doubled : len(ids) - self._adds_end])
        return prompts

    @cached_property
    def _adds_end(self) -> bool:
        end = self._tokenizer.eos_token_id
        return end is not None and self._call(["a"], special=True)[0].ids[-1] == end

    @cached_property
    def _digest(self) -> str | None:
        return tokenizer_digest(self._tokenizer)

    @cached_property
    def _vocabulary(self) -> int:
        # Not the number of tokens: a vocabulary may have gaps.
        return max(self._tokenizer.get_vocab().values()) + 1

    def _tokens(
        self, texts: Sequence[str], *, special: bool = False, places: bool = False
    ) -> list[Tokens]:
        key = None
        if self._cache and self._digest and texts:
            key = key_of(self._digest, texts, special=special, places=places)
            found = self._cache.read(key, vocabulary=self._vocabulary)
            if found is not None:
                self.from_cache += len(texts)
                return found
        made = [
            tokens
            for start in range(0, len(texts), _TEXTS_AT_ONCE)
            for tokens in self._call(
                texts[start : start + _TEXTS_AT_ONCE], special=special, places=places
            )
        ]
        self.tokenised += len(texts)
        if self._cache and key:
            self._cache.write(key, made)
        return made

    def _call(
        self, texts: Sequence[str], *, special: bool = False, places: bool = False
    ) -> list[Tokens]:
        batch = self._tokenizer(
            list(texts),
            add_special_tokens=special,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=places,
            verbose=False,
        )
        if not places:
            return [Tokens(tuple(ids)) for ids in batch["input_ids"]]
        both = zip(batch["input_ids"], batch["offset_mapping"], strict=True)
        return [Tokens(tuple(ids), tuple(stands)) for ids, stands in both]


def encode_rows(rows: Sequence[Row], encoder: Encoder) -> tuple[list[Pair], int]:
    """Returns the ids of every row, whatever their length, and how many turns were altered.

    A plain row's prompt starts with the tokenizer's beginning-of-text token if it adds one; prompt
    and answer are tokenised apart. A chat is tokenised as a whole, as `ChatTemplate.transcript`
    shows it, and ends with the end-of-text token even if its template ends turns with another one;
    turns that the template alters are silent and are counted.

    Args:
        rows: rows of one form, plain or chats.
        encoder: of the model to train.

    Raises:
        ModelError: the tokenizer lacks something.
        DataError: a row has no prompt, or what to learn of a chat cannot be told.
    """
    end = encoder.end
    if any(row.messages for row in rows):
        return _encode_chats(rows, encoder, end)
    prompts = encode_prompts(rows, (), encoder)
    answers = encoder.ids([row.answer for row in rows])
    return [Pair(p, (*a, end)) for p, a in zip(prompts, answers, strict=True)], 0


def encode_prompts(rows: Sequence[Row], shots: Sequence[Row], encoder: Encoder) -> list[Ids]:
    """Returns the ids of every prompt, whatever their length.

    Without shots they are the ids of the training prompt. Shots of plain rows are put before it
    as ``prompt + answer + blank line``; shots of chats are earlier turns.

    Raises:
        DataError: there is no chat template for a chat, it refuses the chat, or a prompt has no
            tokens.
    """
    if any(row.messages for row in rows):
        prompts = encoder.ids([encoder.template.prompt(row, shots) for row in rows])
    else:
        shown = "".join(f"{shot.prompt}{shot.answer}\n\n" for shot in shots)
        prompts = encoder.prompts([shown + row.prompt for row in rows])
    for row, ids in zip(rows, prompts, strict=True):
        if not ids:
            raise DataError(f"{row.where}: the tokenizer makes no token of the prompt")
    return prompts


def fit_prompts(
    rows: Sequence[Row], shots: Sequence[Row], encoder: Encoder, *, max_prompt_length: int
) -> tuple[list[Ids], int, int]:
    """Returns prompts within ``max_prompt_length``, how many lost shots, how many were cut.

    Whole shots go first, then tokens from the left. Of the shots the last goes before the others:
    the first ones stay at the start of every prompt, where an engine computes them once for all.
    """
    prompts = encode_prompts(rows, shots, encoder)
    over = [i for i, ids in enumerate(prompts) if len(ids) > max_prompt_length]
    lost_shots = len(over) if shots else 0
    if over and shots:
        # What a number of shots costs is told from one row; it settles where trying begins.
        costs = [len(encode_prompts(rows[:1], shots[:k], encoder)[0]) for k in range(len(shots))]
        costs.append(len(prompts[0]))
        limit = max_prompt_length + _SLACK_TOKENS
        excess = {i: costs[-1] - (len(prompts[i]) - limit) for i in over}
        for shown in reversed(range(len(shots))):
            tried = [i for i in over if shown == 0 or costs[shown] <= excess[i]]
            fewer = encode_prompts([rows[i] for i in tried], shots[:shown], encoder)
            for i, ids in zip(tried, fewer, strict=True):
                prompts[i] = ids
            over = [i for i in over if len(prompts[i]) > max_prompt_length]
    fitted = [cut_left(ids, max_prompt_length, start=encoder.start) for ids in prompts]
    return fitted, lost_shots, len(over)


def fit_pair(pair: Pair, *, max_length: int, start: int | None) -> Pair | None:
    """Returns the pair within ``max_length``; None if its last answer leaves no room for a prompt.

    Tokens are cut from the left of the prompt, never from an answer. Where the answers of a chat
    leave no room, the first of them becomes part of the prompt, and so on up to the last one.

    Args:
        pair: a tokenised row.
        max_length: most tokens of prompt and answer together.
        start: beginning-of-text token, which stays at the start of a prompt.
    """
    room = max_length - len(pair.answer)
    if min(len(pair.prompt), room) > (pair.prompt[:1] == (start,)):
        return Pair(cut_left(pair.prompt, room, start=start), pair.answer, pair.silent)
    if not pair.silent:
        return None
    moved, *silent = pair.silent
    shorter = Pair(
        pair.prompt + pair.answer[: moved[1]],
        pair.answer[moved[1] :],
        tuple((first - moved[1], stop - moved[1]) for first, stop in silent),
    )
    return fit_pair(shorter, max_length=max_length, start=start)


def cut_left(ids: Ids, length: int, *, start: int | None) -> Ids:
    """Returns the last ``length`` of ``ids``, the first of them ``start`` if ``ids`` has it first.

    Models that are trained with a beginning-of-text token lose their bearings without it.
    """
    if len(ids) <= length:
        return ids
    head = ids[:1] if ids[:1] == (start,) else ()
    return head + ids[len(ids) - (length - len(head)) :]


def _encode_chats(rows: Sequence[Row], encoder: Encoder, end: int) -> tuple[list[Pair], int]:
    chats = [encoder.template.transcript(row) for row in rows]
    prompts = encoder.ids([chat.text[: chat.prompt_length] for chat in chats])
    texts = [chat.text for chat in chats]
    if all(chat.is_one_answer for chat in chats):
        wholes = [Tokens(ids) for ids in encoder.ids(texts)]
    else:
        wholes = encoder.tokens(texts)
    pairs = [
        _chat_pair(row, chat, prompt, whole=whole, end=end)
        for row, chat, prompt, whole in zip(rows, chats, prompts, wholes, strict=True)
    ]
    return pairs, sum(chat.altered for chat in chats)


def _chat_pair(row: Row, chat: Transcript, prompt: Ids, *, whole: Tokens, end: int) -> Pair:
    if not prompt:
        raise DataError(f"{row.where}: the tokenizer makes no token of the prompt")
    if whole.ids[: len(prompt)] != prompt:
        raise DataError(
            f"{row.where}: the tokenizer joins the start of the answer {row.answer[:20]!r} with "
            "what the chat template writes before it, so the answer has no first token of its own; "
            "take away blanks at its start, or use another chat template"
        )
    ids = whole.ids if whole.ids[-1] == end else (*whole.ids, end)
    found = [(len(prompt), len(ids))] if chat.is_one_answer else _turns(chat, whole)
    *earlier, (last, _) = found
    turns = [*(turn for turn in earlier if turn[0] < turn[1]), (last, len(ids))]
    first = turns[0][0]
    if not 0 < first <= last < len(ids):
        raise DataError(
            f"{row.where}: the tokenizer makes no token of the last answer {row.answer[:20]!r}, or "
            "none of what comes before the first one"
        )
    gaps = [(one[1] - first, other[0] - first) for one, other in pairwise(turns)]
    return Pair(ids[:first], ids[first:], tuple(gap for gap in gaps if gap[0] < gap[1]))


def _turns(chat: Transcript, whole: Tokens) -> list[Span]:
    """Returns the tokens within each turn of ``chat``; a token that reaches out is left out."""
    starts = [start for start, _ in whole.places]
    stops = [stop for _, stop in whole.places]
    return [(bisect_left(starts, start), bisect_right(stops, stop)) for start, stop in chat.turns]
