"""Low-rank adapters through peft."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from msft_lite.errors import ModelError
from msft_lite.model.settings import ModelSettings
from msft_lite.model.size import unknown_target

ADAPTER_NAME = "default"
_MAGNITUDE = "lora_magnitude_vector"  # DoRA's lengths, one for each output of a module


def attach_adapter(base: PreTrainedModel, settings: ModelSettings, *, seed: int) -> PeftModel:
    """Freezes ``base`` and returns it with a new adapter, whose B matrices are zero.

    The adapter is float32 even over a bfloat16 base: its weights are small and few, and an update
    of relative size 2**-9 would be rounded away in bfloat16. Its input is cast to float32 and its
    output back to the base's dtype.

    Sources: Hu et al., *LoRA*, arXiv 2106.09685; Kalajdzievski, *rsLoRA*, arXiv 2312.03732
    (``use_rslora``); Liu et al., *DoRA*, arXiv 2402.09353 (``use_dora``).

    Args:
        base: the model on the CPU, so that the A matrices do not depend on the device.
        settings: rank, scale, dropout and target modules.
        seed: decides the A matrices; the state of the global generator neither matters nor
            changes.

    Raises:
        ModelError: the rank is not positive, or a target module does not exist.
    """
    if settings.lora_r < 1:
        raise ModelError(f"model.lora_r = {settings.lora_r}: must be at least 1")
    targets = settings.lora_target_modules
    if not isinstance(targets, str):
        _check_targets(base, targets)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        bias="none",
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return get_peft_model(base, config, adapter_name=ADAPTER_NAME, autocast_adapter_dtype=True)


def saved_name(name: str) -> str:
    """Returns the name under which peft saves the adapter's parameter ``name``."""
    without = name.replace(f".{ADAPTER_NAME}.", ".")
    if without.endswith(f".{_MAGNITUDE}.weight"):
        return without.removesuffix(".weight")
    return without


def adapter_config(model: torch.nn.Module) -> Mapping[str, Any]:
    """Returns the adapter's settings as peft writes them to adapter_config.json.

    Raises:
        ModelError: the model has no adapter.
    """
    if not isinstance(model, PeftModel):
        raise ModelError("the model has no adapter: it is tuned in full")
    config = model.peft_config[ADAPTER_NAME].to_dict() | {"inference_mode": True}
    return json.loads(json.dumps(config, default=_plain, sort_keys=True))


def _plain(value: object) -> list[str] | str:
    """Returns a set as a sorted list, and everything else that JSON lacks as text."""
    return sorted(value) if isinstance(value, set) else str(value)


def _check_targets(base: PreTrainedModel, targets: tuple[str, ...]) -> None:
    head = base.get_output_embeddings()
    linear = [
        name
        for name, module in base.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    ]
    known = sorted({name.rpartition(".")[2] for name in linear})
    if not targets:
        raise ModelError(f"model.lora_target_modules is empty; the model has {', '.join(known)}")
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            raise unknown_target(target, known)
