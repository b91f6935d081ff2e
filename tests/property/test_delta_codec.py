"""Law 5 for snapshots that are stored against another: every bit comes back, or an error."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msft_lite.errors import SnapshotError
from msft_lite.model.weights import Kind, Weights
from msft_lite.snapshot import difference
from msft_lite.snapshot.codec import snapshot_id
from msft_lite.snapshot.delta import FORMAT, Form, read_delta, weights_source, write_delta
from msft_lite.snapshot.store import SnapshotStore
from msft_lite.snapshot.tensor_file import DTYPES, read_header

MUTATIONS = int(os.environ.get("MSFT_LITE_MUTATIONS", "400"))
KINDS: tuple[Kind, ...] = ("adapter", "full")

Parts = dict[str, Any]  # what a header says of every tensor, or the header
Bits = tuple[torch.dtype, tuple[int, ...], bytes]


def bits(tensor: torch.Tensor) -> Bits:
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    return tensor.dtype, tuple(tensor.shape), flat.numpy().tobytes()


def all_bits(weights: Weights) -> tuple[str, dict[str, Bits]]:
    return weights.kind, {name: bits(tensor) for name, tensor in weights.tensors.items()}


def of_bytes(content: bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    flat = torch.tensor(list(content), dtype=torch.uint8)
    return (flat % 2 == 1 if dtype is torch.bool else flat.view(dtype)).reshape(shape)


def written(weights: Weights, before: Weights, parent: str = "root") -> bytes:
    file = io.BytesIO()
    write_delta(file, weights, parent=parent, source=weights_source(before))
    return file.getvalue()


def read(content: bytes, before: Weights) -> Weights:
    file = io.BytesIO(content)
    header = read_header(file, size_bytes=len(content), where="it")
    return read_delta(file, header, source=weights_source(before), where="it")[0]


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Weights, Weights]:
    """Weights and parent, of any dtype and random bytes: NaN payloads, -0.0, empty, no dimension.

    A tensor of the parent is equal, or near, or another one, or of another shape, or not there.
    """
    names = draw(st.lists(st.text("ab.é", max_size=5), unique=True, max_size=5))
    now, before = {}, {}
    for name in names:
        dtype = draw(st.sampled_from(list(DTYPES.values())))
        shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
        size = int(np.prod(shape)) * dtype.itemsize
        content = draw(st.binary(min_size=size, max_size=size))
        now[name] = of_bytes(content, dtype, shape)
        relation = draw(st.sampled_from(("equal", "near", "other", "reshaped", "gone")))
        if relation == "near":
            content = bytes(byte ^ draw(st.sampled_from((0, 0, 0, 1, 128))) for byte in content)
        elif relation == "other":
            content = draw(st.binary(min_size=size, max_size=size))
        if relation != "gone":
            tensor = of_bytes(content, dtype, shape)
            before[name] = tensor[None] if relation == "reshaped" else tensor
    kind = draw(st.sampled_from(KINDS))
    return Weights(kind, now), Weights(kind, before)


@settings(max_examples=300, deadline=None)
@given(pairs())
def test_what_is_read_is_what_was_written_bit_by_bit(pair: tuple[Weights, Weights]) -> None:
    weights, before = pair
    content = written(weights, before)
    assert all_bits(read(content, before)) == all_bits(weights)
    names = list(weights.tensors)
    turned = Weights(weights.kind, {name: weights.tensors[name] for name in reversed(names)})
    assert written(turned, before) == content


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_16_bit_pattern_survives_against_every_kind_of_parent(dtype: torch.dtype) -> None:
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    weights = Weights("full", {"w": patterns})
    for pattern in (0, -(2**15), 0x7F80, 0x7F81, -1, 1):  # 0, -0, infinity, NaN, NaN, denormal
        parent = torch.full_like(patterns.view(torch.int16), pattern).view(dtype)
        before = Weights("full", {"w": parent})
        assert all_bits(read(written(weights, before), before)) == all_bits(weights)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_tensor_of_several_blocks_comes_back(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr("msft_lite.snapshot.delta.BLOCK_WORDS", 64)
    monkeypatch.setattr(difference, "BLOCK_WORDS", 64)
    before = Weights("full", {"w": torch.randn(13, 50)})
    moved = before.tensors["w"].clone()
    moved[::3, ::7] *= 1.001
    weights = Weights("full", {"w": moved})
    content = written(weights, before)
    assert coding_of(content) == {"w": "delta"}
    assert all_bits(read(content, before)) == all_bits(weights)


def test_every_tensor_is_stored_in_the_form_that_pays() -> None:
    chance = torch.Generator().manual_seed(3)
    base = torch.randn(200, 300, generator=chance).bfloat16()
    before = dict.fromkeys(("equal", "near", "far"), base) | {"long": torch.arange(9)}
    now = {
        "equal": base.clone(),
        "near": torch.where(torch.rand(200, 300, generator=chance) < 0.1, base * 1.01, base),
        "far": of_bytes(random.Random(3).randbytes(120_000), torch.bfloat16, (200, 300)),
        "long": torch.arange(9) + 1,
        "new": base,
    }
    content = written(Weights("full", now), Weights("full", before))
    assert coding_of(content) == {
        "equal": "same", "near": "delta", "far": "full", "long": "full", "new": "full",
    }  # fmt: skip
    header = read_header(io.BytesIO(content), size_bytes=len(content), where="it")
    sizes = {entry.name: entry.end - entry.start for entry in header.entries}
    assert sizes["equal"] == 0
    assert sizes["near"] < base.nbytes / 10
    assert sizes["far"] == base.nbytes


def test_one_tensor_of_the_parent_is_in_memory_at_a_time() -> None:
    weights = Weights("full", {f"w{n}": torch.randn(50, 50) for n in range(5)})
    given: list[weakref.ref[torch.Tensor]] = []

    def source(form: Form) -> torch.Tensor:
        assert all(tensor() is None for tensor in given)
        tensor = weights.tensors[form.name] * 1.001
        given.append(weakref.ref(tensor))
        return tensor

    file = io.BytesIO()
    write_delta(file, weights, parent="root", source=source)
    file.seek(0)
    header = read_header(file, size_bytes=len(file.getvalue()), where="it")
    read_delta(file, header, source=source, where="it")
    assert len(given) == 10


def coding_of(content: bytes) -> dict[str, str]:
    return {name: part["coding"] for name, part in described(content).items()}


# Hostile files


def header_of(content: bytes) -> Parts:
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def described(content: bytes) -> Parts:
    return json.loads(str(header_of(content)["__metadata__"]["tensors"]))


def forged(
    content: bytes,
    change: Callable[[Parts], object] = lambda _: None,
    **metadata: Any,
) -> bytes:
    """Returns the file with other words in its header; the rest stays."""
    header, parts = header_of(content), described(content)
    change(parts)
    header["__metadata__"] |= {"tensors": json.dumps(parts), **metadata}
    text = json.dumps(header).encode()
    end = 8 + int.from_bytes(content[:8], "little")
    return len(text).to_bytes(8, "little") + text + content[end:]


def a_pair() -> tuple[Weights, Weights]:
    chance = torch.Generator().manual_seed(1)
    base = {
        "a.weight": torch.randn(40, 30, generator=chance).bfloat16(),
        "b.weight": torch.randn(30, 20, generator=chance),
        "c.count": torch.tensor(7),
        "d.same": torch.randn(9, generator=chance).half(),
    }
    now = {name: tensor.clone() for name, tensor in base.items()}
    now["a.weight"][::2] *= 1.01
    now["b.weight"] *= 1.0001
    now["c.count"] += 1
    return Weights("full", now), Weights("full", base)


WEIGHTS, BEFORE = a_pair()
CONTENT = written(WEIGHTS, BEFORE)

HOSTILE: dict[str, tuple[Callable[[Parts], object], str]] = {
    "no part": (lambda parts: parts.pop("a.weight"), "its entries are not the tensors"),
    "one more": (lambda parts: parts.update(x=parts["d.same"]), "its entries are not the tensors"),
    "a list": (lambda parts: parts.update({"a.weight": []}), "'a.weight': coding, dtype, sha256"),
    "more said": (lambda parts: parts["a.weight"].update(x=1), "'a.weight': coding, dtype, sha256"),
    "dtype": (lambda parts: parts["a.weight"].update(dtype="F8"), "'a.weight': unknown dtype 'F8'"),
    "other dtype": (
        lambda parts: parts["a.weight"].update(dtype="F16"),
        "'a.weight': its parent has none of this name, dtype and shape",
    ),
    "other shape": (
        lambda parts: parts["a.weight"].update(shape=[30, 40]),
        "'a.weight': its parent has none of this name, dtype and shape",
    ),
    "huge shape": (lambda parts: parts["a.weight"].update(shape=[2**40]), "'a.weight': its parent"),
    "too huge": (lambda parts: parts["a.weight"].update(shape=[2**61]), "'a.weight': its shape is"),
    "negative": (lambda parts: parts["a.weight"].update(shape=[-1]), "'a.weight': its shape is"),
    "coding": (lambda parts: parts["a.weight"].update(coding="xor"), "unknown coding 'xor'"),
    "coding 3": (lambda parts: parts["a.weight"].update(coding=3), "unknown coding '3'"),
    "coding a list": (lambda parts: parts["a.weight"].update(coding=[]), "unknown coding"),
    "same of bytes": (lambda parts: parts["a.weight"].update(coding="same"), "is no 'same' of"),
    "full of few": (lambda parts: parts["a.weight"].update(coding="full"), "is no 'full' of"),
    "delta of longs": (lambda parts: parts["c.count"].update(coding="delta"), "is no 'delta' of"),
    "delta of none": (
        lambda parts: parts["d.same"].update(coding="delta"),
        "'d.same': it ends within a block",
    ),
    "no sha256": (lambda parts: parts["a.weight"].update(sha256="ab"), "'a.weight': it has no sha"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_description_is_refused_and_the_tensor_named(case: str) -> None:
    change, problem = HOSTILE[case]
    with pytest.raises(SnapshotError) as caught:
        read(forged(CONTENT, change), BEFORE)
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        ({"kind": "delta"}, "its kind is 'delta'"),
        ({"tensors": "[]"}, "not a JSON object"),
        ({"tensors": "{"}, "not JSON"),
        ({"tensors": "[" * 100_000}, "not JSON"),
        ({"tensors": '{"a": 1, "a": 2}'}, "'a' twice"),
    ],
)
def test_hostile_metadata_is_refused(metadata: dict[str, Any], problem: str) -> None:
    with pytest.raises(SnapshotError, match=problem):
        read(forged(CONTENT, **metadata), BEFORE)


# Mutated files


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Returns ``content`` with one damage, half of the time with the checksums forged to fit."""
    changed = bytearray(content)
    header_end = 8 + int.from_bytes(content[:8], "little")
    place = chance.randrange(chance.choice([8, header_end, len(content), len(content)]))
    damage = chance.randrange(6)
    if damage == 0:
        changed[place] ^= 1 << chance.randrange(8)
    elif damage == 1:
        changed[place] = chance.randrange(256)
    elif damage == 2:
        del changed[place:]
    elif damage == 3:
        changed[place:place] = chance.randbytes(chance.randrange(1, 16))
    elif damage == 4:
        place = chance.randrange(header_end, len(content))
        changed[place : place + 4] = chance.choice(
            (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\0\x80", b"\x01\0\0\0", chance.randbytes(4))
        )
    else:
        digits = [i for i in range(8, header_end) if content[i : i + 1].isdigit()]
        changed[chance.choice(digits)] = ord(chance.choice('0123456789-.eE"[]{}, '))
    return bytes(changed)


def test_mutated_files_raise_nothing_but_a_snapshot_error_or_have_the_parents_form() -> None:
    chance = random.Random(20)
    refused = 0
    for _ in range(MUTATIONS):
        try:
            found = read(mutated(CONTENT, chance), BEFORE)
        except SnapshotError:
            refused += 1
            continue
        # What is left are other values, which the id finds, and never more of them.
        assert found.total_bytes <= WEIGHTS.total_bytes + len(CONTENT)
    assert refused > MUTATIONS / 3


def test_mutated_snapshots_are_refused_or_load_bitwise(tmp_path: Path) -> None:
    store = SnapshotStore(tmp_path, root=lambda: BEFORE, deltas=True)
    middle = store.save(WEIGHTS)
    later = Weights(
        "full", {n: t + 1 if n == "b.weight" else t for n, t in WEIGHTS.tensors.items()}
    )
    ids = {middle: WEIGHTS, store.save(later, near=middle): later}
    chance = random.Random(21)
    refused = 0
    paths = {identity: tmp_path / f"{identity}.safetensors" for identity in ids}
    for _ in range(MUTATIONS):
        damaged = chance.choice(list(ids))
        content = paths[damaged].read_bytes()
        paths[damaged].write_bytes(mutated(content, chance))
        for identity, weights in ids.items():
            try:
                assert all_bits(store.load(identity)) == all_bits(weights)
            except SnapshotError as error:
                refused += identity == damaged
                assert "bring" in str(error)
        paths[damaged].write_bytes(content)
    assert refused > MUTATIONS * 0.8


def test_forged_checksums_do_not_help(tmp_path: Path) -> None:
    """Other values whose own sha256 is right: the id is that of the whole, and does not fit."""
    store = SnapshotStore(tmp_path, root=lambda: BEFORE, deltas=True)
    identity = store.save(WEIGHTS)
    other = Weights("full", {**WEIGHTS.tensors, "a.weight": WEIGHTS.tensors["a.weight"] * 2})
    assert snapshot_id(other) != identity
    path = tmp_path / f"{identity}.safetensors"
    path.write_bytes(written(other, BEFORE))
    with pytest.raises(SnapshotError, match=r"damaged, its bytes have the sha256 [0-9a-f]{12};"):
        store.load(identity)

    def claim(parts: Parts) -> None:
        parts["a.weight"]["sha256"] = hashlib.sha256(
            bits(WEIGHTS.tensors["a.weight"])[2]
        ).hexdigest()

    path.write_bytes(forged(written(other, BEFORE), claim))
    with pytest.raises(SnapshotError, match=r"\(tensor 'a.weight' first\)"):
        store.load(identity)


def test_the_form_that_is_asked_for_is_the_form_that_comes() -> None:
    source = weights_source(BEFORE)
    assert source(Form("a.weight", torch.bfloat16, (40, 30))) is not None
    assert source(Form("a.weight", torch.bfloat16, (1200,))) is None
    assert source(Form("a.weight", torch.float16, (40, 30))) is None
    assert source(Form("x", torch.bfloat16, (40, 30))) is None
    assert FORMAT == "msft-lite snapshot 2"
