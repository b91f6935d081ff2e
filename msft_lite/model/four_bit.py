"""A frozen base in 4 bits through bitsandbytes, for an adapter to be trained over it.

Source: Dettmers et al., *QLoRA*, arXiv 2305.14314: NF4 with double quantisation. Deviation: what
stays unquantised (embeddings, norms, output head) stays in the model's dtype. peft's
`prepare_model_for_kbit_training` casts all of it to float32, which takes another 2.5 GB for a
vocabulary of 150,000 at a width of 4,096, and buys little: the models' norms compute in float32
as it is, and so does the loss.
"""

from __future__ import annotations

import torch
from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel

from msft_lite.errors import ModelError
from msft_lite.model.settings import ModelSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def quantisation(settings: ModelSettings) -> BitsAndBytesConfig | None:
    """Returns how the linear layers but the output head are quantised, or None if they are not.

    Raises:
        ModelError: bitsandbytes cannot be imported, or ``settings`` would train the weights.
    """
    if not settings.load_in_4bit:
        return None
    if settings.tuning == "full":
        raise ModelError("model.load_in_4bit: weights of 4 bits cannot be trained; use lora")
    try:
        import bitsandbytes  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        raise ModelError(
            f"model.load_in_4bit needs bitsandbytes, which cannot be imported ({error}): "
            "pip install bitsandbytes, or set load_in_4bit = false"
        ) from error
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=DTYPES[settings.dtype],
    )


def check_unquantised(name: str, config: PretrainedConfig) -> None:
    """Checks that the stored weights of the model called ``name`` are plain numbers.

    Raises:
        ModelError: they are quantised already.
    """
    stored = config.to_dict().get("quantization_config")
    if stored:
        method = stored.get("quant_method", "some method")
        raise ModelError(
            f"model {name!r} is stored quantised ({method}); name the model that it was made of: "
            "model.load_in_4bit = true quantises that one while it is loaded"
        )


def keep_weights_in_place(base: PreTrainedModel) -> None:
    """Makes the quantised layers of ``base`` the same function in training and in evaluation.

    On CPUs with AVX512-BF16, bitsandbytes 0.50.2 packs a layer anew at its first forward pass in
    evaluation mode, for good. That rounds the scales to bfloat16, and no gradient passes through a
    packed layer: training after an evaluation fails, or without biases goes wrong in silence.
    """
    from bitsandbytes.nn.modules import Linear4bit

    for module in base.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False


def weight_count(parameter: torch.Tensor) -> int:
    """Returns how many weights of the model ``parameter`` holds: two a byte in 4 bits."""
    return parameter.numel() * (2 if parameter.dtype == torch.uint8 else 1)
