"""Rows between a file and token ids: as read, and as text to learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Message = tuple[str, str]  # role and content


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a source, its columns as they stand there.

    Attributes:
        where: the place to name in messages, ``tasks/add.jsonl, line 17``.
        values: column names and values: texts, numbers, lists, objects or None.
    """

    where: str
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Row:
    """One row as text.

    Attributes:
        where: the place to name in messages, ``tasks/add.jsonl, line 17``.
        prompt: text before the answer; of a chat, the contents before the last message.
        answer: text to learn; of a chat, the content of the last message.
        messages: the whole chat, its last message from the assistant; empty for a plain row.
        group: value of the column that the task is split by; empty if it is not.
        options: of a row with lettered choices what ``answer`` would be for each of them, the
            marked letter and nothing else; empty for other rows.
    """

    where: str
    prompt: str
    answer: str
    messages: tuple[Message, ...] = ()
    group: str = ""
    options: tuple[str, ...] = ()
