"""Chats as text, and which of its characters the model learns to say."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NoReturn

from msft_lite.data.rows import Message, Row
from msft_lite.data.task import Span
from msft_lite.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_STAND_IN = "aNsWeR-0f-tHe-aSsIsTaNt"  # in no real chat, and not itself after a change of case
# Some templates write the day's date. A row must be the same tomorrow, or no run could be resumed:
# they all get the day that Llama 3.1's template falls back to.
_VARIABLES: Mapping[str, Any] = {"strftime_now": datetime(2024, 7, 26).strftime}


@dataclass(frozen=True, slots=True)
class Transcript:
    """A whole chat as text.

    Attributes:
        text: up to the end of the assistant's last turn, the mark that ends it included.
        prompt_length: characters of the prompt of the last turn; ``text`` starts with it.
        turns: the characters of the assistant's turns that are learned, in order; the last one
            ends with the text.
        altered: turns that are not learned because the template shows them otherwise than they
            were said, as it does where it drops earlier thinking.
    """

    text: str
    prompt_length: int
    turns: tuple[Span, ...]
    altered: int = 0

    @property
    def is_one_answer(self) -> bool:
        """Whether all that is learned is what follows the prompt of the last turn."""
        return self.turns == ((self.prompt_length, len(self.text)),)


class ChatTemplate:
    """A tokenizer's chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Keeps the tokenizer, which may have no template as long as no chat comes."""
        self._tokenizer = tokenizer
        added: Any = tokenizer.added_tokens_decoder
        names = [*map(str, added.values()), str(tokenizer.eos_token or "")]
        self._marks = tuple(name for name in names if name.strip())  # some add runs of blanks

    def prompt(self, row: Row, shots: Sequence[Row] = ()) -> str:
        """Returns the template of all but the row's last message, with the generation prompt.

        Shots become earlier turns, after the row's own leading system messages and without theirs.

        Raises:
            DataError: there is no chat template, or it refuses the messages.
        """
        asked = row.messages[:-1]
        turns = next((i for i, (role, _) in enumerate(asked) if role != "system"), len(asked))
        shown = tuple(m for shot in shots for m in shot.messages if m[0] != "system")
        return self._render(asked[:turns] + shown + asked[turns:], row.where, is_open=True)

    def transcript(self, row: Row) -> Transcript:
        """Returns the whole chat as text, with the places of the assistant's turns.

        A template may mark what the assistant says with ``{% generation %}``. Where it does not, a
        turn starts where the generation prompt of the messages before it ends, and ends before
        what the template writes after a stand-in for it. The mark that ends a turn, a special
        token, belongs to the turn. A first message from the assistant answers nothing and is not
        learned.

        Raises:
            DataError: there is no chat template, it refuses the chat, or a turn cannot be found
                exactly.
        """
        whole = self._render(row.messages, row.where, is_open=False)
        if _GENERATION.search(self._tokenizer.get_chat_template()):
            return self._by_marking(row, whole)
        return self._by_stand_in(row, whole)

    def _by_marking(self, row: Row, whole: str) -> Transcript:
        prompt = self.prompt(row)
        _check_start(whole, prompt, row)
        marked = self._marked(row)
        said = [_squeezed(content) for role, content in row.messages if role == "assistant"]
        for start, stop in marked:
            stretch = _squeezed(whole[start:stop])
            # The one or the other may hold more: a mark of the end, thinking that is not shown.
            if not any(content in stretch or stretch in content for content in said):
                _refuse(row, f"marks {whole[start:stop][:60]!r}, which the assistant does not say")
        if not marked or marked[-1][1] <= len(prompt):
            _refuse(row, "marks nothing of the last message, so that there is nothing to learn")
        last = marked[-1][1]
        mark = "" if whole[:last].endswith(self._marks) else self._end_mark(whole[last:])
        turns = tuple((start, _with(mark, whole, stop)) for start, stop in marked)
        return Transcript(whole[: turns[-1][1]], len(prompt), turns)

    def _by_stand_in(self, row: Row, whole: str) -> Transcript:
        places = [i for i, (role, _) in enumerate(row.messages) if role == "assistant" and i > 0]
        prompts = [self._render(row.messages[:i], row.where, is_open=True) for i in places]
        for prompt in prompts:
            _check_start(whole, prompt, row)
        tails = [self._tail(row, *pair) for pair in pairwise([*places, len(row.messages)])]
        mark = self._end_mark(tails[-1])
        turns: list[Span] = []
        for place, tail, (before, after) in zip(
            places, tails, pairwise([*prompts, whole]), strict=True
        ):
            start, stop = len(before), len(after) - len(tail)
            if start > stop or not after.endswith(tail):
                _refuse(row, f"changes what follows message {place + 1} with what it says")
            if _squeezed(whole[start:stop]).endswith(_squeezed(row.messages[place][1])):
                turns.append((start, _with(mark, whole, stop)))
            elif after is whole:
                _refuse(row, f"rewrites message {place + 1} as {whole[start:stop][:60]!r}")
        text = whole[: turns[-1][1]]
        return Transcript(text, len(prompts[-1]), tuple(turns), len(places) - len(turns))

    def _tail(self, row: Row, place: int, until: int) -> str:
        """Returns what is written after message ``place``, up to the answer at ``until``."""
        messages = list(row.messages[:until])
        messages[place] = ("assistant", _STAND_IN)
        text = self._render(messages, row.where, is_open=until < len(row.messages))
        if text.count(_STAND_IN) != 1:
            _refuse(row, f"shows message {place + 1} changed, repeated or not at all")
        return text.partition(_STAND_IN)[2]

    def _end_mark(self, tail: str) -> str:
        """Returns the start of ``tail``, up to its first special token; empty without one."""
        found = [(tail.find(mark), -len(mark)) for mark in self._marks if mark in tail]
        start, negative_length = min(found, default=(0, 0))
        return tail[: start - negative_length]

    def _marked(self, row: Row) -> list[Span]:
        """Returns the characters of the whole chat that the template marks."""
        from transformers.utils.chat_template_utils import render_jinja_template

        variables: dict[str, Any] = {**self._tokenizer.special_tokens_map, **_VARIABLES}
        rendered: Any = render_jinja_template(
            [_chat(row.messages)],
            chat_template=self._tokenizer.get_chat_template(),
            return_assistant_tokens_mask=True,
            **variables,
        )
        _, (spans,) = rendered
        return [(start, stop) for start, stop in spans if start < stop]

    def _render(self, messages: Sequence[Message], where: str, *, is_open: bool) -> str:
        if not self._tokenizer.chat_template:
            raise DataError(
                f"{where}: the row is a chat, but the tokenizer {self._tokenizer.name_or_path!r} "
                "has no chat template; use prompt and answer, or a model that was tuned for chats"
            )
        try:
            text = self._tokenizer.apply_chat_template(
                _chat(messages),
                tokenize=False,
                add_generation_prompt=is_open,
                **_VARIABLES,
            )
        # A template is a program of the model's author: jinja raises what the program raises.
        except Exception as error:
            raise DataError(
                f"{where}: the chat template refuses the messages: {error}; change their roles or "
                "order"
            ) from error
        return str(text)


def as_chat(row: Row) -> Row:
    """Returns a row as a chat; a plain row's prompt is the user's, its answer the assistant's."""
    if row.messages:
        return row
    return dataclasses.replace(row, messages=(("user", row.prompt), ("assistant", row.answer)))


def _chat(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in messages]


def _check_start(whole: str, prompt: str, row: Row) -> None:
    if whole.startswith(prompt):
        return
    pairs = enumerate(zip(prompt, whole, strict=False))
    at = next((i for i, (one, other) in pairs if one != other), min(len(prompt), len(whole)))
    raise DataError(
        f"{row.where}: the template of the whole chat does not start with the template of a prompt "
        f"in it (they differ at character {at}: {whole[at : at + 20]!r} instead of "
        f"{prompt[at : at + 20]!r}), so the answer cannot be told apart; use prompt and answer, or "
        "another chat template"
    )


def _refuse(row: Row, reason: str) -> NoReturn:
    raise DataError(
        f"{row.where}: what the assistant says cannot be told apart: the chat template {reason}; "
        "use prompt and answer, or a template that marks it with {% generation %}"
    )


def _with(mark: str, text: str, stop: int) -> int:
    """Returns ``stop``, moved behind ``mark`` where that follows it in ``text``."""
    return stop + len(mark) if text.startswith(mark, stop) else stop


def _squeezed(text: str) -> str:
    """Returns ``text`` without blanks: templates add and take away those around contents."""
    return "".join(text.split())
