"""What rows of one's own may look like, and the text that each form stands for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from msft_lite.data.cells import Cells
from msft_lite.data.conversations import messages_of
from msft_lite.data.rows import Message, Record, Row
from msft_lite.data.tasks.preset import Item
from msft_lite.data.tasks.text import (
    MARK,
    MOST_CHOICES,
    choice_text,
    free_text,
    letter,
    letter_options,
)
from msft_lite.errors import DataError, did_you_mean


@dataclass(frozen=True, slots=True)
class Format:
    """A form of rows.

    Attributes:
        needed: columns that a row of this form has.
        to_row: returns the row; raises DataError.
        optional: columns that it may have.
    """

    needed: tuple[str, ...]
    to_row: Callable[[Cells], Row]
    optional: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return " + ".join(self.needed)


def row_of(
    record: Record, *, columns: Mapping[str, str] | None = None, group_by: str | None = None
) -> Row:
    """Returns the row of text that a record of one of `FORMATS` stands for.

    Columns that its format does not have are ignored, and a null is as good as no column.

    Args:
        record: as it was read.
        columns: column of a format to column of the source. Only formats that have all the
            columns named here are considered.
        group_by: column of the source whose value becomes the row's group.

    Raises:
        DataError: the record fits no format or two, or a value in it cannot be used; the message
            starts with ``record.where``.
    """
    columns = columns or {}
    cells = _cells(record, columns)
    row = _format_of(cells, columns).to_row(cells)
    return dataclasses.replace(row, group=_group(record, group_by)) if group_by else row


def _cells(record: Record, columns: Mapping[str, str]) -> Cells:
    values = dict(record.values)
    for name, source in columns.items():
        if name not in NAMES:
            raise DataError(
                f"{record.where}: columns.{name}: no format has a column {name!r}"
                f"{did_you_mean(name, NAMES)}; they have {', '.join(NAMES)}"
            )
        if source not in record.values:
            raise DataError(
                f"{record.where}: columns.{name}: there is no column {source!r}"
                f"{did_you_mean(source, record.values)}; its columns are {_listed(record.values)}"
            )
        values.pop(source, None)
    values |= {name: record.values[source] for name, source in columns.items()}
    return Cells(record.where, values, columns)


def _format_of(cells: Cells, columns: Mapping[str, str]) -> Format:
    considered = [f for f in FORMATS if set(columns) <= {*f.needed, *f.optional}]
    fitting = [f for f in considered if all(cells.has(name) for name in f.needed)]
    # Question and answer fit wherever there are choices as well.
    best = [f for f in fitting if not any(set(f.needed) < set(g.needed) for g in fitting)]
    if len(best) == 1:
        return best[0]
    if best:
        chosen = ", ".join(f'{name} = "{cells.source(name)}"' for name in best[0].needed)
        raise DataError(
            f"{cells.where}: fits more than one format: {'; '.join(f.name for f in best)}; leave "
            f"a column out, or say which with columns, such as columns = {{ {chosen} }}"
        )
    _refuse_nulls(cells, considered)
    raise DataError(
        f"{cells.where}: the columns {_listed(cells.values)} fit no format{_missing(cells)}; "
        f"formats: {'; '.join(f.name for f in considered or FORMATS)}; rename columns, or map them "
        'with columns = { question = "stem" }'
    )


def _refuse_nulls(cells: Cells, considered: Sequence[Format]) -> None:
    """Raises if it is only for nulls that the row does not fit one of the formats."""
    empty = [
        [name for name in f.needed if not cells.has(name)]
        for f in considered
        if set(f.needed) <= set(cells.values)
    ]
    if empty:
        raise DataError(
            f"{cells.where}: {cells.label(min(empty, key=len)[0])} is null; give it a value or "
            "delete the row"
        )


def _missing(cells: Cells) -> str:
    """Returns the first column whose name is nearly there, for a message."""
    unknown = [name for name in cells.values if name not in NAMES]
    for name in (name for f in FORMATS for name in f.needed if name not in cells.values):
        if close := did_you_mean(name, unknown):
            return f"; {name!r} is missing{close}"
    return ""


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(repr(name) for name in list(names)[:12]) or "(none)"


def _group(record: Record, column: str) -> str:
    if column not in record.values:
        raise DataError(
            f"{record.where}: split_by: there is no column {column!r}"
            f"{did_you_mean(column, record.values)}; its columns are {_listed(record.values)}"
        )
    return Cells(record.where, record.values, {}).text(column, numbers=True).strip()


def _plain(cells: Cells) -> Row:
    return Row(cells.where, cells.text("prompt"), cells.text("answer", numbers=True))


def _completion(cells: Cells) -> Row:
    prompt, completion = cells.values["prompt"], cells.values["completion"]
    if isinstance(prompt, list) != isinstance(completion, list):
        raise DataError(
            f"{cells.where}: of {cells.label('prompt')} and {cells.label('completion')} one is a "
            "list; make both texts or both lists of messages"
        )
    if not isinstance(prompt, list):
        return Row(cells.where, cells.text("prompt"), cells.text("completion", numbers=True))
    return _row_of_chat(cells, messages_of(cells, "prompt") + messages_of(cells, "completion"))


def _instruction(cells: Cells) -> Row:
    prompt = f"### Instruction:\n{cells.text('instruction')}\n\n"
    if given := cells.optional_text("input"):
        prompt += f"### Input:\n{given}\n\n"
    return Row(cells.where, prompt + "### Response:\n", cells.text("output", numbers=True))


def _chat(cells: Cells, *, column: str) -> Row:
    return _row_of_chat(cells, messages_of(cells, column))


def _row_of_chat(cells: Cells, messages: tuple[Message, ...]) -> Row:
    if len(messages) < 2 or messages[-1][0] != "assistant":
        found = repr(messages[-1][0]) if messages else "nobody"
        raise DataError(
            f"{cells.where}: a chat needs at least one message and then the assistant's as the "
            f"last; found {len(messages)}, the last from {found}; add the answer or delete what "
            "follows it"
        )
    prompt = "\n".join(content for _, content in messages[:-1])
    return Row(cells.where, prompt, messages[-1][1], messages)


def _choice_question(cells: Cells) -> Row:
    texts, labels = _choices(cells)
    right = _right_choice(cells, texts, labels)
    item = _item(cells, letter(right), texts)
    prompt, answer = choice_text(item)
    return Row(cells.where, prompt, answer, options=letter_options(item, answer))


def _free_question(cells: Cells) -> Row:
    answer = cells.text("answer", numbers=True)
    prompt, marked = free_text(_item(cells, answer, ()))
    return Row(cells.where, prompt, answer if MARK in answer else marked)


def _item(cells: Cells, answer: str, choices: tuple[str, ...]) -> Item:
    rationale, solution = cells.optional_text("rationale"), cells.optional_text("solution")
    if rationale and solution:
        raise DataError(
            f"{cells.where}: has {cells.label('rationale')} and {cells.label('solution')}; keep one"
        )
    return Item(
        cells.text("question"),
        answer,
        choices,
        rationale=rationale or solution,
        context=cells.optional_text("context"),
    )


def _choices(cells: Cells) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the choices' texts and their labels, which are letters where none are given."""
    value, labels = cells.values["choices"], None
    if isinstance(value, Mapping):
        value, labels = value.get("text"), value.get("label")
    texts = cells.texts("choices", value)
    if not 2 <= len(texts) <= MOST_CHOICES:
        raise DataError(
            f"{cells.where}: {cells.label('choices')} holds {len(texts)}; needed are 2 to "
            f"{MOST_CHOICES}"
        )
    if labels is None:
        return texts, tuple(letter(index) for index in range(len(texts)))
    labels = cells.texts("choices", labels)
    if len(set(labels)) < len(labels) or len(labels) != len(texts):
        raise DataError(
            f"{cells.where}: {cells.label('choices')} has {len(texts)} texts and the labels "
            f"{', '.join(labels)}; give each text a label of its own"
        )
    return texts, labels


def _right_choice(cells: Cells, texts: tuple[str, ...], labels: tuple[str, ...]) -> int:
    """Returns the index of the choice that the answer names by label, index from 0, or text."""
    value = cells.values["answer"]
    answer = cells.text("answer", numbers=True).strip()
    found = {i for i, label in enumerate(labels) if label.casefold() == answer.casefold()}
    found |= {i for i, text in enumerate(texts) if text.strip() == answer}
    if isinstance(value, int | float) and value in range(len(texts)):
        found.add(int(value))
    if len(found) == 1:
        return found.pop()
    several = " and ".join(repr(texts[index][:80]) for index in sorted(found))
    raise DataError(
        f"{cells.where}: {cells.label('answer')} is {answer[:80]!r}, which "
        + (f"can mean {several}" if found else f"is none of the {len(texts)} choices")
        + f"; give a label ({', '.join(labels)}), a number counted from 0, or a choice's text"
    )


_AROUND = ("rationale", "solution", "context")
FORMATS = (
    Format(("prompt", "completion"), _completion),
    Format(("prompt", "answer"), _plain),
    Format(("instruction", "output"), _instruction, ("input",)),
    Format(("messages",), partial(_chat, column="messages")),
    Format(("conversations",), partial(_chat, column="conversations")),
    Format(("question", "choices", "answer"), _choice_question, _AROUND),
    Format(("question", "answer"), _free_question, _AROUND),
)
NAMES = tuple(dict.fromkeys(name for f in FORMATS for name in (*f.needed, *f.optional)))
