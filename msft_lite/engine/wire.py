"""Messages between the trainer and the engine's process, over one stream socket.

A message is a header (two unsigned little-endian integers: length of the control part in 4 bytes,
length of the tensor part in 8), the control part (a JSON object in UTF-8) and the tensor part (the
bytes of a safetensors file, often none). Nothing in it can carry code. Only the standard library is
imported, because the engine's process may run where msft_lite is not installed and loads this file
by its path.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Mapping

HEADER = struct.Struct("<IQ")
# Measured use: 3,000 prompts of 1,500 ids are 25 MB of JSON. An adapter of an 8B model at rank 512
# in float32 is 6 GB.
CONTROL_LIMIT_BYTES = 1 << 30
TENSOR_LIMIT_BYTES = 1 << 36
# So that a false length in a header is not allocated before the bytes really come.
CHUNK_BYTES = 1 << 24


class ConnectionEndedError(Exception):
    """The other side closed the connection between two messages."""


class MessageError(Exception):
    """Bytes came that are no message: cut off, too long, or not a JSON object."""


def send(
    connection: socket.socket,
    control: Mapping[str, object],
    tensors: bytes = b"",
    *,
    timeout_seconds: float | None = None,
) -> None:
    """Sends one message.

    Raises:
        MessageError: a part is longer than its limit.
        TimeoutError: the other side did not take it in time; the connection is then useless.
        OSError: the connection is broken.
    """
    text = json.dumps(control, separators=(",", ":")).encode()
    _check_lengths(len(text), len(tensors))
    connection.settimeout(timeout_seconds)
    connection.sendall(HEADER.pack(len(text), len(tensors)) + text)
    if tensors:
        connection.sendall(tensors)


def receive(
    connection: socket.socket, *, timeout_seconds: float | None = None
) -> tuple[dict[str, object], bytes]:
    """Returns the control and tensor part of the next message.

    Args:
        timeout_seconds: the most that the whole message may take, None for no limit.

    Raises:
        ConnectionEndedError: the other side closed before the first byte.
        MessageError: what came is no message; the connection is then useless.
        TimeoutError: the message was not complete in time; the connection is then useless.
        OSError: the connection is broken.
    """
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    header = _receive_exactly(connection, HEADER.size, deadline, first=True)
    control_bytes, tensor_bytes = HEADER.unpack(header)
    _check_lengths(control_bytes, tensor_bytes)
    text = _receive_exactly(connection, control_bytes, deadline)
    tensors = _receive_exactly(connection, tensor_bytes, deadline)
    return _parse(text), tensors


def _check_lengths(control_bytes: int, tensor_bytes: int) -> None:
    if control_bytes > CONTROL_LIMIT_BYTES:
        raise MessageError(f"control part of {control_bytes} bytes, limit {CONTROL_LIMIT_BYTES}")
    if tensor_bytes > TENSOR_LIMIT_BYTES:
        raise MessageError(f"tensor part of {tensor_bytes} bytes, limit {TENSOR_LIMIT_BYTES}")


def _receive_exactly(
    connection: socket.socket, count: int, deadline: float | None, *, first: bool = False
) -> bytes:
    received = bytearray()
    while len(received) < count:
        connection.settimeout(_remaining_seconds(deadline))
        chunk = connection.recv(min(CHUNK_BYTES, count - len(received)))
        if not chunk:
            if first and not received:
                raise ConnectionEndedError("the other side closed the connection")
            raise MessageError(f"cut off after {len(received)} of {count} bytes")
        received += chunk
    return bytes(received)


def _remaining_seconds(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError("the message was not complete in time")
    return remaining


def _parse(text: bytes) -> dict[str, object]:
    try:
        control = json.loads(text)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise MessageError(f"the control part is not JSON: {error}") from None
    if not isinstance(control, dict):
        raise MessageError(f"the control part is a {type(control).__name__}, not an object")
    return control
