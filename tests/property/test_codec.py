"""Law 5: decode(encode(x)) == x bit by bit, and no file however damaged gives anything else."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as library_load
from safetensors.torch import save as library_save

from msft_lite.errors import SnapshotError
from msft_lite.model.weights import Weights
from msft_lite.snapshot.codec import FORMAT, decode, encode, snapshot_id
from msft_lite.snapshot.crash import load_crash_copy, save_crash_copy
from msft_lite.snapshot.store import SnapshotStore
from msft_lite.snapshot.tensor_file import DTYPES


def bits(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    return (
        tensor.dtype,
        tuple(tensor.shape),
        tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
    )


def all_bits(weights: Weights) -> tuple[str, dict[str, object]]:
    return weights.kind, {name: bits(tensor) for name, tensor in weights.tensors.items()}


@st.composite
def random_tensors(draw: st.DrawFn) -> torch.Tensor:
    """Tensors of any stored dtype made of random bytes: NaN payloads, -0.0, denormals, empty."""
    dtype = draw(st.sampled_from(list(DTYPES.values())))
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=4)))
    count = math.prod(shape)
    if dtype is torch.bool:
        values = draw(st.lists(st.booleans(), min_size=count, max_size=count))
        return torch.tensor(values, dtype=dtype).reshape(shape)
    size_bytes = count * dtype.itemsize
    content = draw(st.binary(min_size=size_bytes, max_size=size_bytes))
    flat = torch.tensor(list(content), dtype=torch.uint8)
    return flat.view(dtype).reshape(shape)


tensor_names = st.text(st.characters(codec="utf-8"), max_size=12).filter(
    lambda name: name != "__metadata__"
)
random_weights = st.builds(
    Weights,
    st.sampled_from(["adapter", "full"]),
    st.dictionaries(tensor_names, random_tensors(), max_size=5),
)


@settings(max_examples=200, deadline=None)
@given(random_weights)
def test_decode_returns_every_bit_that_encode_was_given(weights: Weights) -> None:
    assert all_bits(decode(encode(weights))) == all_bits(weights)


@settings(max_examples=50, deadline=None)
@given(random_weights)
def test_bytes_do_not_depend_on_the_order_of_names(weights: Weights) -> None:
    names = list(weights.tensors)
    turned = Weights(weights.kind, {name: weights.tensors[name] for name in reversed(names)})
    assert encode(turned) == encode(weights)
    assert snapshot_id(turned) == snapshot_id(weights)


@pytest.mark.parametrize(
    ("dtype", "integer", "pattern"),
    [
        (torch.float32, torch.int32, 0x7F80_0001),  # signalling NaN
        (torch.float32, torch.int32, -0x0012_3456),  # negative quiet NaN with a payload
        (torch.bfloat16, torch.int16, 0x7F81),
        (torch.bfloat16, torch.int16, -0x8000),  # -0.0
        (torch.float16, torch.int16, 0x7C01),
    ],
)
def test_unusual_float_bits_survive(dtype: torch.dtype, integer: torch.dtype, pattern: int) -> None:
    weights = Weights("full", {"w": torch.tensor([pattern, 1], dtype=integer).view(dtype)})
    back = decode(encode(weights)).tensors["w"].view(integer)
    assert back.tolist() == [pattern, 1]


def test_strided_tensors_are_stored_by_value() -> None:
    whole = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    back = decode(encode(Weights("full", {"columns": whole.t()[1:, ::2]})))
    assert torch.equal(back.tensors["columns"], whole.t()[1:, ::2])


@settings(max_examples=50, deadline=None)
@given(random_weights)
def test_the_safetensors_library_reads_what_is_written(weights: Weights) -> None:
    found = library_load(encode(weights))
    assert {n: bits(t) for n, t in found.items()} == all_bits(weights)[1]


def test_files_of_the_safetensors_library_are_read() -> None:
    tensors = {"a": torch.randn(3, 5), "b": torch.ones(7, dtype=torch.bfloat16)}
    content = library_save(tensors, metadata={"format": FORMAT, "kind": "full"})
    assert all_bits(decode(content)) == all_bits(Weights("full", tensors))


# Hostile files


def a_header(fields: object, data: bytes = b"\0" * 8) -> bytes:
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return len(text).to_bytes(8, "little") + text + data


def an_entry(
    dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)
) -> dict[str, object]:
    return {
        "__metadata__": {"format": FORMAT, "kind": "full"},
        "layer.w": {"dtype": dtype, "shape": shape, "data_offsets": offsets},
    }


HOSTILE = {
    "empty": (b"", "truncated"),
    "short": (b"\1\0\0", "truncated"),
    "huge header": (b"\xff" * 8 + b"{}", "truncated or not a safetensors file"),
    "header over the limit": ((2**24 + 1).to_bytes(8, "little") + b" " * (2**24 + 1), "claims"),
    "not JSON": (a_header(b"{nothing"), "not JSON"),
    "not UTF-8": (a_header(b'{"\xff\xfe": 1}'), "not JSON"),
    "endless digits": (a_header(b'{"a": ' + b"9" * 5000 + b"}"), "not JSON"),
    "deep nesting": (a_header(b"[" * 100_000), "not JSON"),
    "a list": (a_header([1]), "not a JSON object"),
    "named twice": (a_header(b'{"a": 1, "a": 2}'), "'a' twice"),
    "metadata of numbers": (a_header({"__metadata__": {"format": 1}}), "metadata"),
    "entry of text": (a_header({"layer.w": "x"}), "'layer.w'"),
    "more fields": (a_header({"layer.w": {"dtype": "F32", "x": 1}}), "'layer.w'"),
    "unknown dtype": (a_header(an_entry(dtype="F8_E4M3")), "'layer.w': unknown dtype 'F8_E4M3'"),
    "dtype of a list": (a_header(an_entry(dtype=["F32"])), "'layer.w': unknown dtype"),
    "other dtype": (a_header(an_entry(dtype="F16")), "'layer.w': its shape and its number of"),
    "negative size": (a_header(an_entry(shape=[-2])), "'layer.w': its shape"),
    "size true": (a_header(an_entry(shape=[2, True])), "'layer.w': its shape"),
    "size of a float": (a_header(an_entry(shape=[2.0])), "'layer.w': its shape"),
    "many dimensions": (a_header(an_entry(shape=[1] * 99)), "'layer.w': its shape"),
    "huge shape": (a_header(an_entry(shape=[2**40, 2**40])), "'layer.w': its shape is too large"),
    "huge empty shape": (a_header(an_entry(shape=[0, 2**62], offsets=[0, 0])), "too large"),
    "three offsets": (a_header(an_entry(offsets=[0, 4, 8])), "'layer.w': data_offsets"),
    "backward offsets": (a_header(an_entry(offsets=[8, 0])), "'layer.w': its shape and"),
    "a gap": (a_header(an_entry(offsets=[8, 16]), b"\0" * 16), "'layer.w' overlaps"),
    "beyond the end": (a_header(an_entry(shape=[4], offsets=[0, 16])), "truncated or too long"),
    "longer than said": (a_header(an_entry(), b"\0" * 9), "truncated or too long"),
    "overlap": (
        a_header(
            {
                "a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]},
                "b": {"dtype": "U8", "shape": [4], "data_offsets": [4, 8]},
            }
        ),
        "'b' overlaps",
    ),
    "other format": (library_save({"w": torch.zeros(2)}, {"format": "pt"}), "its format is 'pt'"),
    "other kind": (
        library_save({"w": torch.zeros(2)}, {"format": FORMAT, "kind": "delta"}),
        "its kind is 'delta'",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_and_named(case: str) -> None:
    content, problem = HOSTILE[case]
    with pytest.raises(SnapshotError) as caught:
        decode(content, where="snapshot 12ab")
    assert str(caught.value).startswith("snapshot 12ab: ")
    assert problem in str(caught.value)
    assert str(caught.value).isascii()


def test_a_name_that_cannot_be_printed_is_escaped_in_the_message() -> None:
    with pytest.raises(SnapshotError, match=r"\\ud800"):
        decode(a_header({**an_entry(), "\ud800": an_entry()["layer.w"]}))


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("__metadata__", torch.float32, "'__metadata__'"),
        ("\ud800", torch.float32, r"'\\ud800'"),
        ("layer.w", torch.complex64, r"'layer.w': dtype torch.complex64"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_name(
    name: str, dtype: torch.dtype, message: str
) -> None:
    with pytest.raises(SnapshotError, match=message):
        encode(Weights("full", {name: torch.zeros(2, dtype=dtype)}))


# Mutated files


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Returns ``content`` with one damage: bits, bytes, a cut, an insertion, a field, a length."""
    changed = bytearray(content)
    header_end = 8 + int.from_bytes(content[:8], "little")
    place = chance.randrange(chance.choice([8, header_end, len(content)]))
    damage = chance.randrange(7)
    if damage == 0:
        changed[place] ^= 1 << chance.randrange(8)
    elif damage == 1:
        changed[place] = chance.randrange(256)
    elif damage == 2:
        del changed[place:]
    elif damage == 3:
        del changed[place : place + chance.randrange(1, 16)]
    elif damage == 4:
        changed[place:place] = chance.randbytes(chance.randrange(1, 16))
    elif damage == 5:
        changed[:8] = chance.randrange(2 ** chance.randrange(64)).to_bytes(8, "little")
    else:
        digits = [i for i in range(8, header_end) if content[i : i + 1].isdigit()]
        changed[chance.choice(digits)] = ord(chance.choice('0123456789-.eE"[]{}, '))
    return bytes(changed)


def some_weights() -> Weights:
    generator = torch.Generator().manual_seed(1)
    return Weights(
        "adapter",
        {
            "layers.0.lora_A.weight": torch.randn(2, 6, generator=generator),
            "layers.0.lora_B.weight": torch.randn(6, 2, generator=generator).bfloat16(),
            "empty": torch.empty(0, 3),
            "count": torch.tensor(7),
        },
    )


def refused_of_1000(content: bytes, check: Callable[[bytes], None]) -> int:
    chance = random.Random(20)
    refused = 0
    for _ in range(1000):
        try:
            check(mutated(content, chance))
        except SnapshotError:
            refused += 1
    return refused


def test_1000_mutated_snapshots_are_refused_or_load_bitwise(tmp_path: Path) -> None:
    weights = some_weights()
    store = SnapshotStore(tmp_path, root=lambda: weights)
    identity = store.save(weights)
    (path,) = tmp_path.iterdir()

    def check(content: bytes) -> None:
        path.write_bytes(content)
        assert all_bits(store.load(identity)) == all_bits(weights)

    # A mutation may write the byte that was there; all others have to be refused.
    assert refused_of_1000(path.read_bytes(), check) > 950


def test_1000_mutated_bytes_make_decode_raise_nothing_but_its_own_error() -> None:
    content = encode(some_weights())

    def check(changed: bytes) -> None:
        found = decode(changed)  # what has the form of a snapshot is one
        assert len(encode(found)) <= len(changed) + 8

    assert refused_of_1000(content, check) > 300


def test_1000_mutated_crash_copies_are_refused_or_load_bitwise(tmp_path: Path) -> None:
    path = tmp_path / "crash.safetensors"
    tensors, state = dict(some_weights().tensors), {"step": 12, "rate": 1e-5}
    save_crash_copy(path, tensors, state)

    def check(content: bytes) -> None:
        path.write_bytes(content)
        found = load_crash_copy(path)
        assert found is not None
        assert {n: bits(t) for n, t in found[0].items()} == {n: bits(t) for n, t in tensors.items()}
        assert found[1] == state

    assert refused_of_1000(path.read_bytes(), check) > 950
