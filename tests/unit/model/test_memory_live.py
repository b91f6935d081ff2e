"""Bytes of live tensors, worked out by hand."""

from __future__ import annotations

from pathlib import Path

import torch

from msft_lite.model.memory.free import available_bytes, group_bytes
from msft_lite.model.memory.live import LiveBytes, rounded


def test_sizes_are_rounded_up_to_blocks() -> None:
    assert [rounded(size) for size in (0, 1, 512, 513)] == [0, 512, 512, 1024]


def test_tensors_count_from_birth_to_death_and_views_not_at_all() -> None:
    with LiveBytes() as live:
        first = torch.zeros(256)  # 1,024 bytes
        view = first.view(16, 16)[3]
        second = first + 1
        assert sum(live.live.values()) == 2048
        del first
        assert sum(live.live.values()) == 2048  # the view still needs it
        del view
        assert sum(live.live.values()) == 1024
        del second
        assert sum(live.live.values()) == 0
        torch.zeros(1)
    assert sum(live.peak.values()) == 2048


def test_the_peak_is_told_by_part_and_what_was_there_before_counts() -> None:
    weight = torch.zeros(512, requires_grad=True)  # 2,048 bytes
    live = LiveBytes()
    live.watch([weight, weight.detach()], "weights")
    with live:
        product = weight * torch.ones(512)  # two more, the ones kept for the backward pass
        with live.counted_as("backward"):
            product.sum().backward()
        assert weight.grad is not None
        live.watch([weight.grad], "gradients")
    assert live.live["gradients"] == 2048
    # In the backward pass: weight, ones, product; the sum and the gradient of the sum, one block
    # each, whose expansion is a view; the gradient of the weight.
    assert sum(live.peak.values()) == 4 * 2048 + 2 * 512
    assert live.peak["weights"] == 2048
    assert live.peak["gradients"] == 0


def test_free_memory_is_read_from_linux(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    assert available_bytes(meminfo) is None
    meminfo.write_text("MemTotal:  8000 kB\nMemFree:   100 kB\nMemAvailable:   3000 kB\n")
    assert available_bytes(meminfo) == 3000 * 1024


def test_a_containers_limit_counts_and_pages_of_files_do_not(tmp_path: Path) -> None:
    assert group_bytes(tmp_path) == []
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 400\ninactive_file 250\n")
    assert group_bytes(tmp_path) == []
    (tmp_path / "memory.max").write_text("1000\n")
    assert group_bytes(tmp_path) == [550]
