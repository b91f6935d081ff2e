from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msft_lite.engine import wire

Pair = tuple[socket.socket, socket.socket]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def received_from(data: bytes) -> tuple[dict[str, object], bytes]:
    """What `receive` makes of exactly these bytes and then the end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        return wire.receive(ours, timeout_seconds=10)


def frame(control: bytes, tensors: bytes = b"") -> bytes:
    return wire.HEADER.pack(len(control), len(tensors)) + control + tensors


@given(control=st.dictionaries(st.text(), JSON, max_size=4), tensors=st.binary(max_size=500))
def test_a_message_arrives_as_it_was_sent(control: dict[str, object], tensors: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        wire.send(ours, control, tensors, timeout_seconds=10)
        assert wire.receive(theirs, timeout_seconds=10) == (control, tensors)


def test_messages_larger_than_the_sockets_buffer_arrive_in_order(pair: Pair) -> None:
    ours, theirs = pair
    tensors = bytes(range(256)) * 20_000
    sender = threading.Thread(
        target=lambda: [wire.send(ours, {"n": n}, tensors, timeout_seconds=10) for n in range(3)]
    )
    sender.start()
    received = [wire.receive(theirs, timeout_seconds=10) for _ in range(3)]
    sender.join()
    assert received == [({"n": n}, tensors) for n in range(3)]


@given(data=st.binary(max_size=200))
@settings(max_examples=200)
def test_arbitrary_bytes_are_refused_or_read_and_never_crash(data: bytes) -> None:
    try:
        control, _ = received_from(data)
    except (wire.MessageError, wire.ConnectionEndedError):
        return
    assert isinstance(control, dict)


@given(data=st.data())
def test_a_message_cut_anywhere_is_refused(data: st.DataObject) -> None:
    whole = frame(b'{"operation":"complete"}', b"tensors")
    length = data.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(wire.MessageError, match="cut off"):
        received_from(whole[:length])


def test_the_end_between_messages_is_told_from_a_cut() -> None:
    with pytest.raises(wire.ConnectionEndedError):
        received_from(b"")


@pytest.mark.parametrize(
    "header",
    [
        wire.HEADER.pack(wire.CONTROL_LIMIT_BYTES + 1, 0),
        wire.HEADER.pack(0, wire.TENSOR_LIMIT_BYTES + 1),
        b"\xff" * wire.HEADER.size,
    ],
)
def test_a_length_over_the_limit_is_refused_before_anything_is_read(header: bytes) -> None:
    with pytest.raises(wire.MessageError, match="limit"):
        received_from(header)


def test_a_false_length_within_the_limit_allocates_nothing() -> None:
    with pytest.raises(wire.MessageError, match="cut off after 3 of"):
        received_from(wire.HEADER.pack(2, wire.TENSOR_LIMIT_BYTES) + b"{}" + b"abc")


@pytest.mark.parametrize(
    "control", [b"", b"[]", b"1", b"nonsense", b"\xff\xfe", b"[" * 100_000, b'{"a":1}x']
)
def test_what_is_no_json_object_is_refused(control: bytes) -> None:
    with pytest.raises(wire.MessageError, match="control part"):
        received_from(frame(control))


def test_an_oversized_message_is_not_sent(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "TENSOR_LIMIT_BYTES", 10)
    with pytest.raises(wire.MessageError, match="tensor part of 11 bytes, limit 10"):
        wire.send(pair[0], {}, b"x" * 11)


def test_silence_and_a_stalled_reader_time_out(pair: Pair) -> None:
    with pytest.raises(TimeoutError):
        wire.receive(pair[0], timeout_seconds=0.05)
    pair[1].sendall(wire.HEADER.pack(10, 0) + b"{")
    with pytest.raises(TimeoutError):
        wire.receive(pair[0], timeout_seconds=0.05)
    with pytest.raises(TimeoutError):
        wire.send(pair[0], {}, bytes(10_000_000), timeout_seconds=0.05)
