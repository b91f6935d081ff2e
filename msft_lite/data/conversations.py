"""Chats as OpenAI's files (role, content) and ShareGPT's (from, value) write them."""

from __future__ import annotations

from collections.abc import Mapping

from msft_lite.data.cells import Cells, checked_text
from msft_lite.data.files import kind
from msft_lite.data.rows import Message
from msft_lite.errors import DataError, did_you_mean

ROLES = {role: role for role in ("system", "developer", "user", "assistant", "tool")}
ROLES |= {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant"}
ROLES |= {"observation": "tool"}
_TOOLS = "tool calls are not learned"
_TEXT_ONLY = "only text is learned"
_NOT_BESIDE_CHATS = {
    "tools": _TOOLS,
    "functions": _TOOLS,
    "images": _TEXT_ONLY,
    "videos": _TEXT_ONLY,
    "audios": _TEXT_ONLY,
    "system": "make it the first message",
}
_NOT_IN_MESSAGES = {"tool_calls": _TOOLS, "function_call": _TOOLS, "audio": _TEXT_ONLY}


def messages_of(cells: Cells, name: str) -> tuple[Message, ...]:
    """Returns the messages of the list in a column; contents in parts are joined.

    Raises:
        DataError: there is more than text in them or beside them, or a role is unknown.
    """
    _refuse(cells.values, _NOT_BESIDE_CHATS, cells.where)
    value = cells.values[name]
    if not isinstance(value, list):
        raise DataError(
            f"{cells.where}: {cells.label(name)} must be a list of messages, found {kind(value)}"
        )
    place = cells.where if name in ("messages", "conversations") else f"{cells.where}, {name}"
    return tuple(
        _message(entry, f"{place}, message {number}") for number, entry in enumerate(value, start=1)
    )


def _message(value: object, where: str) -> Message:
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: expected an object, found {kind(value)}")
    _refuse(value, _NOT_IN_MESSAGES, where)
    # A table has every column in every row: what a message does not have is null in it.
    speaks = value.get("role") is None and value.get("from") is not None
    keys = ("from", "value") if speaks else ("role", "content")
    for key in keys:
        if key not in value:
            known = ", ".join(repr(name) for name in list(value)[:8]) or "none"
            close = did_you_mean(key, [str(name) for name in value])
            raise DataError(f"{where}: key {key!r} is missing (keys: {known}){close}")
    role = _role(checked_text(value[keys[0]], f"{where}: {keys[0]!r}"), where)
    return role, _content(value[keys[1]], f"{where}: {keys[1]!r}")


def _role(name: str, where: str) -> str:
    if name == "function_call":
        raise DataError(f"{where}: is a {name!r}; {_TOOLS}: leave the row out")
    if name not in ROLES:
        raise DataError(
            f"{where}: unknown role {name!r}{did_you_mean(name, ROLES)}; known are "
            f"{', '.join(ROLES)}"
        )
    return ROLES[name]


def _content(value: object, where: str) -> str:
    if isinstance(value, list):
        value = "".join(_part(part, f"{where}, part {n}") for n, part in enumerate(value, start=1))
    return checked_text(value, where)


def _part(value: object, where: str) -> str:
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: expected an object, found {kind(value)}")
    if value.get("type") != "text":
        raise DataError(f"{where} is of type {value.get('type')!r}; {_TEXT_ONLY}")
    return checked_text(value.get("text"), f"{where}: 'text'")


def _refuse(values: Mapping[str, object], reasons: Mapping[str, str], where: str) -> None:
    for name, reason in reasons.items():
        if values.get(name):
            raise DataError(f"{where}: has {name!r}; {reason}: leave it or the row out")
