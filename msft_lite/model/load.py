"""Loads a model and its tokenizer, and moves trainable weights in and out of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from jinja2 import TemplateError, TemplateSyntaxError
from peft import PeftModel
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from msft_lite.errors import ModelError, SnapshotError, did_you_mean
from msft_lite.model.adapter import adapter_config, attach_adapter, saved_name
from msft_lite.model.checkpointing import checkpoint_layers
from msft_lite.model.folder import (
    check_folder,
    check_tokenizer_files,
    local_folder,
    near,
    read_config,
)
from msft_lite.model.four_bit import (
    DTYPES,
    check_unquantised,
    keep_weights_in_place,
    quantisation,
)
from msft_lite.model.fused_layers import check_fused, fuse_layers, states_to_keep
from msft_lite.model.loss import check_head
from msft_lite.model.offload import CudaLane
from msft_lite.model.packing import lay_out
from msft_lite.model.settings import Device, ModelSettings
from msft_lite.model.weights import Kind, Weights

__all__ = [
    "ModelSettings",
    "adapter_config",
    "apply",
    "base_weights",
    "capture",
    "load_model",
    "load_tokenizer",
    "resolve_device",
    "trainable_parameters",
]

# All that transformers, safetensors and the hub's client raise for a model that cannot be used.
_LOAD_ERRORS = (OSError, ValueError, RuntimeError, ImportError, KeyError, SafetensorError)


def resolve_device(name: str) -> Device:
    """Returns the device that ``name`` (``auto``, ``cpu`` or ``cuda``) stands for on this machine.

    Raises:
        ModelError: the name is unknown, or there is no CUDA device.
    """
    if name not in {"auto", "cpu", "cuda"}:
        raise ModelError(
            f"device {name!r} is unknown: auto, cpu or cuda{did_you_mean(name, ['auto', 'cuda'])}"
        )
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            "device 'cuda': this machine has no CUDA device that torch can use; take 'cpu' or "
            "'auto', or install a build of torch for your driver"
        )
    return cast("Device", name)


def load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    """Returns the tokenizer; it has an end-of-text token, which pads where no other does.

    Raises:
        ModelError: it or its chat template cannot be read, or it has no end-of-text token that the
            model knows.
    """
    folder = local_folder(settings.name_or_path)
    if folder is not None:
        read_config(folder)
        check_tokenizer_files(folder)
    source = str(folder or settings.name_or_path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=settings.revision, trust_remote_code=settings.trust_remote_code
        )
        vocabulary = _load_config(settings, source).get_text_config().vocab_size
    except _LOAD_ERRORS as error:
        raise _not_loaded("tokenizer", settings, error) from error
    # Some tokenizer classes add an end and a padding of their own where the files name none, with
    # ids beyond the model's embedding.
    if tokenizer.eos_token_id is None or tokenizer.eos_token_id >= vocabulary:
        raise ModelError(
            f"tokenizer of {settings.name_or_path!r} has no end-of-text token among the model's "
            f"{vocabulary} tokens (eos_token is {tokenizer.eos_token!r}): answers could not end; "
            "set eos_token in its tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id >= vocabulary:
        tokenizer.pad_token = tokenizer.eos_token
    if settings.chat_template is not None:
        _set_chat_template(tokenizer, settings.chat_template)
    return tokenizer


def load_model(settings: ModelSettings, *, seed: int) -> PreTrainedModel | PeftModel:
    """Returns the model ready to train, on its device.

    Under full tuning every parameter is trainable in ``settings.dtype``. Under LoRA the base is
    frozen in that dtype, or in 4 bits, and the adapter is float32 (see `attach_adapter`). Loading
    neither reads nor changes the state of any global random generator.

    Args:
        settings: what to load and how to tune it.
        seed: decides the adapter's first weights; of no effect under full tuning.

    Raises:
        ModelError: the model cannot be used, for any reason.
    """
    _check_device(settings)
    base = _load_base(settings)
    check_head(base)
    expected = states_to_keep(base) if settings.liger_kernels else None
    if settings.liger_kernels:
        fuse_layers(base, settings)
    model: PreTrainedModel | PeftModel = base
    if settings.tuning == "lora":
        model = attach_adapter(base, settings, seed=seed)
    else:
        base.requires_grad_(True)
    checkpoint_layers(base, settings, CudaLane() if settings.activation_offload else None)
    placed = _placed(model, settings)
    if expected is not None:
        check_fused(placed, expected, settings)
    lay_out(placed, settings)
    return placed


def base_weights(settings: ModelSettings) -> Weights:
    """Reads the base anew and returns it as the weights of an untouched full-tuned model.

    They equal ``capture(load_model(settings))`` bit for bit. Nothing is kept between calls: the
    files are the one copy.

    Raises:
        ModelError: the model cannot be used.
    """
    base = _load_base(settings)
    return Weights("full", {name: p.detach().contiguous() for name, p in base.named_parameters()})


def trainable_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Returns the parameters that are trained, named as in `Weights`, in the model's order.

    Names are those under which peft saves an adapter, or transformers a dense model; of tied
    parameters only the first appears. Buffers are constants of the architecture, not weights.
    """
    return {
        saved_name(name) if isinstance(model, PeftModel) else name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def capture(model: torch.nn.Module) -> Weights:
    """Returns copies of the trainable tensors on the host; the model is not changed."""
    return Weights(
        _kind(model),
        {
            name: parameter.detach().to("cpu", copy=True).contiguous()
            for name, parameter in trainable_parameters(model).items()
        },
    )


def apply(model: torch.nn.Module, weights: Weights) -> None:
    """Copies ``weights`` into the model's trainable parameters, in place.

    Raises:
        SnapshotError: kind, a name, a shape or a dtype is not the model's; nothing was copied.
    """
    if weights.kind != _kind(model):
        raise SnapshotError(
            f"the snapshot holds {weights.kind} weights, the model is tuned with "
            f"{_kind(model)} weights; the recipe's tuning was changed"
        )
    parameters = trainable_parameters(model)
    check_tensors(weights.tensors, parameters, what="snapshot")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights.tensors[name])


def check_tensors(
    stored: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], *, what: str
) -> None:
    """Checks that names, shapes and dtypes agree.

    Args:
        stored: tensors read from ``what``.
        expected: the model's tensors.
        what: names the source in a message.

    Raises:
        SnapshotError: naming the first tensor that is missing, too many or different.
    """
    for name, tensor in expected.items():
        if name not in stored:
            hint = did_you_mean(name, stored)
            raise SnapshotError(f"{what}: tensor {name!r} of the model is missing{hint}")
        found = stored[name]
        if (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
            raise SnapshotError(
                f"{what}: tensor {name!r} is {_form(found)}, the model has {_form(tensor)}; it "
                "belongs to another model or tuning"
            )
    for name in stored:
        if name not in expected:
            raise SnapshotError(f"{what}: tensor {name!r} is not in the model")


def _form(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _kind(model: torch.nn.Module) -> Kind:
    return "adapter" if isinstance(model, PeftModel) else "full"


def _check_device(settings: ModelSettings) -> None:
    resolve_device(settings.device)
    if settings.activation_offload and settings.device == "cpu":
        raise ModelError(
            "activation_offload: on the CPU there is nothing to offload, activations are in the "
            "host's memory; leave it out"
        )
    if settings.liger_kernels and settings.device == "cpu":
        raise ModelError("liger_kernels: the kernels are for NVIDIA GPUs; leave it out")
    if settings.device != "cuda" or settings.dtype != "bfloat16":
        return
    # Emulation would work and be many times slower than float32.
    if not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name()
        raise ModelError(f"dtype 'bfloat16' is not supported by {name}; take 'float32'")


def _load_base(settings: ModelSettings) -> PreTrainedModel:
    """Returns the whole causal language model in its dtype, every weight from files.

    It is on the CPU, but in 4 bits on its device: there it is quantised, tensor by tensor.
    """
    quantised = quantisation(settings)
    folder = local_folder(settings.name_or_path)
    if folder is not None:
        check_folder(folder)
    source = str(folder or settings.name_or_path)
    try:
        config = _load_config(settings, source)
        _check_causal(settings, config)
        check_unquantised(settings.name_or_path, config)
        # Some architectures draw numbers before the stored weights replace them.
        with torch.random.fork_rng(devices=[]):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source,
                revision=settings.revision,
                dtype=DTYPES[settings.dtype],
                attn_implementation=settings.attn_implementation or "sdpa",
                use_safetensors=True,
                trust_remote_code=settings.trust_remote_code,
                quantization_config=quantised,
                device_map={"": settings.device} if quantised else None,
                output_loading_info=True,
            )
    except _LOAD_ERRORS as error:
        raise _not_loaded("model", settings, error) from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"model {settings.name_or_path!r}: its files lack {len(missing)} tensors, the first "
            f"is {missing[0]!r}; they would be random"
        )
    if quantised:
        keep_weights_in_place(model)
    return model


def _load_config(settings: ModelSettings, source: str) -> PretrainedConfig:
    return AutoConfig.from_pretrained(
        source, revision=settings.revision, trust_remote_code=settings.trust_remote_code
    )


def _set_chat_template(tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    try:
        tokenizer.chat_template = path.read_text(encoding="utf-8")
        tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
    except OSError as error:
        raise ModelError(f"data.chat_template: {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"data.chat_template: {path}: not UTF-8 text, save it as such") from error
    except TemplateSyntaxError as error:
        where = f"{path}, line {error.lineno}"
        raise ModelError(
            f"data.chat_template: {where}: no Jinja template: {error.message}"
        ) from error
    except TemplateError:
        return  # it is sound, and refuses one question alone; the rows are another matter


def _check_causal(settings: ModelSettings, config: PretrainedConfig) -> None:
    named = tuple(config.architectures or ())
    known = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    remote = settings.trust_remote_code and bool(config.to_dict().get("auto_map"))
    if remote or (config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not named):
        return
    if not known.intersection(named):
        what = ", ".join(named) or config.model_type
        raise ModelError(
            f"model {settings.name_or_path!r} is not a causal language model: its config.json "
            f"names {what}"
        )


def _placed(
    model: PreTrainedModel | PeftModel, settings: ModelSettings
) -> PreTrainedModel | PeftModel:
    try:
        model.to(torch.device(settings.device))  # pyright: ignore[reportArgumentType]
        return model
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"model {settings.name_or_path!r} does not fit in the memory of the GPU: {error}; "
            "choose a smaller model, or dtype = 'bfloat16'"
        ) from error


def _not_loaded(what: str, settings: ModelSettings, error: Exception) -> ModelError:
    reason = str(error).strip().split("\n")[0] or type(error).__name__
    name = settings.name_or_path
    if (folder := local_folder(name)) is not None:
        return ModelError(f"{what} in {str(folder)!r} cannot be loaded: {reason}")
    return ModelError(
        f"{what} {name!r} is no folder here{near(Path(name))}, and the Hugging Face hub did "
        f"not deliver it: {reason} Check the name, revision and connection, or name a local folder"
    )
