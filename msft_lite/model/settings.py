"""How a model is loaded and tuned; free of torch, so that sizes can be told at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Dtype = Literal["float32", "bfloat16"]
Device = Literal["cpu", "cuda"]
Tuning = Literal["lora", "full"]
LossKernelName = Literal["chunked", "liger", "cut_cross_entropy"]
LossKernelChoice = LossKernelName | Literal["auto"]

ALL_LINEAR = "all-linear"


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How a model is loaded and tuned.

    Attributes:
        name_or_path: a local folder, or the name of a model on the Hugging Face hub.
        revision: branch, tag or commit on the hub; of no effect on a local folder.
        dtype: of the weights. Under LoRA that is the frozen base; the adapter is float32 always.
        device: where the model is trained; see `resolve_device`.
        tuning: ``lora`` trains a low-rank adapter over the frozen base, ``full`` every parameter.
        load_in_4bit: hold the linear layers of the frozen base in 4 bits, see `four_bit`; they
            compute in ``dtype``.
        lora_r: rank of the adapter.
        lora_alpha: the adapter's output is scaled by ``lora_alpha / lora_r``.
        lora_dropout: probability of a zero in the adapter's input while training.
        lora_target_modules: ``all-linear`` (every linear module but the output head) or names of
            linear modules, such as ``q_proj``.
        use_rslora: scale by ``lora_alpha / sqrt(lora_r)`` instead.
        use_dora: train the length of every column of an adapted weight too.
        attn_implementation: as transformers names it; None is ``sdpa``.
        liger_kernels: compute norms, rotations and gated layers in fused kernels, see
            `fused_layers`; for a GPU.
        padding_free: lay the rows of a batch one after another, see `packing`; None is wherever
            that is proved to be safe and ``attn_implementation`` is None.
        gradient_checkpointing: recompute each layer's activations in the backward pass, or with a
            number k those of the first layer and of every k-th after it, see `checkpointing`.
        activation_offload: hold the inputs of recomputed layers on the host, see `offload`.
        trust_remote_code: run Python code that comes with the model.
        chat_template: Jinja file that takes the place of the tokenizer's own template.
    """

    name_or_path: str
    revision: str | None = None
    dtype: Dtype = "float32"
    device: Device = "cpu"
    tuning: Tuning = "lora"
    load_in_4bit: bool = False
    lora_r: int = 16
    lora_alpha: int = 32
    lora_dropout: float = 0.0
    lora_target_modules: Literal["all-linear"] | tuple[str, ...] = ALL_LINEAR
    use_rslora: bool = False
    use_dora: bool = False
    attn_implementation: str | None = None
    liger_kernels: bool = False
    padding_free: bool | None = None
    gradient_checkpointing: bool | int = False
    activation_offload: bool = False
    trust_remote_code: bool = False
    chat_template: Path | None = None
