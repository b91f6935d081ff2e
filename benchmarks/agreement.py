"""Measures how far vLLM and the torch engine agree, in float32 and in bfloat16.

    python benchmarks/agreement.py [--adapter FOLDER] [--base FOLDER] [--tasks FOLDER]
    python benchmarks/agreement.py --kind qlora [--unquantised]

64 questions of the control files are continued by 24 tokens, greedily and past any end token, under
an adapter: the one in FOLDER (``best/`` of a run with LoRA), else a random one of the size that
training gives. Printed are the continuations that are equal token by token, and by how much the log
probabilities differ: those that vLLM gives its own tokens, against one forward pass of transformers
over them, as the canary compares them.

With --kind the base is in 4 bits (qlora), the adapter is DoRA (dora), or both (qdora), and vLLM
gets the weights as in a run. With qlora --unquantised it is given the base that was not quantised
instead: how far that is another model.

Exit code 0: in float32 all continuations are equal; 1: they are not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from msft_lite.engine.base import EvalEngine, Prompt
from msft_lite.engine.dequantised import DequantisedBase
from msft_lite.engine.merged import MergingEngine
from msft_lite.engine.torch_engine import TorchEngine
from msft_lite.engine.vllm_engine import VllmEngine, VllmSettings
from msft_lite.model.adapter import adapter_config
from msft_lite.model.load import capture, load_model
from msft_lite.model.settings import Dtype, ModelSettings

QUICKSTART = Path(__file__).parent.parent / "recipes" / "quickstart"
QUESTIONS = 64
NEW_TOKENS = 24
RANK = 16
# With a factor of 2 and peft's A: changes of 0.008 to weights of some hundredths.
SPREAD_OF_B = 0.02
DTYPES: dict[Dtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
KINDS = ("lora", "qlora", "dora", "qdora")


@dataclass(frozen=True, slots=True)
class Figures:
    """What one type of number gave."""

    equal: int
    total: int
    mean: float
    largest: float

    def line(self, dtype: str) -> str:
        """Returns the figures for a reader."""
        return (
            f"{dtype}: {self.equal} of {self.total} continuations equal; log probabilities differ "
            f"by {self.mean:.2g} in the mean and {self.largest:.2g} at most"
        )


def main() -> int:
    """Prints one line per type and returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--base", type=Path, default=QUICKSTART / "base")
    parser.add_argument("--tasks", type=Path, default=QUICKSTART / "tasks")
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--kind", choices=KINDS, default="lora")
    parser.add_argument("--unquantised", action="store_true")
    parser.add_argument("--seed", type=int, default=20)
    arguments = parser.parse_args()
    prompts = read_prompts(arguments.base, arguments.tasks)
    figures: dict[str, Figures] = {}
    for dtype in DTYPES:
        kind, seed = arguments.kind, arguments.seed
        if kind == "lora":
            model = load(arguments.base, arguments.adapter, dtype=dtype, seed=seed)
        else:
            model = load_kind(arguments.base, kind, dtype=dtype, seed=seed)
        given = "lora" if arguments.unquantised else kind
        figures[dtype] = measure(model, arguments.base, prompts, dtype=dtype, kind=given)
        print(figures[dtype].line(dtype), flush=True)
    return 0 if figures["float32"].equal == len(prompts) else 1


def read_prompts(base: Path, tasks: Path) -> list[Prompt]:
    """Returns questions of all control files in turn."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    files = [path.read_text("utf-8").splitlines() for path in sorted(tasks.glob("*.control.jsonl"))]
    rows = (row for row in chain.from_iterable(zip_longest(*files)) if row)
    texts = [json.loads(row)["prompt"] for row in islice(rows, QUESTIONS)]
    return [Prompt(tuple(tokenizer(text).input_ids), NEW_TOKENS) for text in texts]


def load(base: Path, adapter: Path | None, *, dtype: Dtype, seed: int) -> torch.nn.Module:
    """Returns the base with the adapter in ``adapter``, or a random one, trainable."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=DTYPES[dtype])
    if adapter is not None:
        return PeftModel.from_pretrained(model, adapter, is_trainable=True).eval()
    torch.manual_seed(seed)
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear")
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=SPREAD_OF_B)
    return adapted.eval()


def load_kind(base: Path, kind: str, *, dtype: Dtype, seed: int) -> torch.nn.Module:
    """Returns the base as a run loads it, under a random adapter of that kind."""
    settings = ModelSettings(
        str(base),
        dtype=dtype,
        load_in_4bit=kind.startswith("q"),
        lora_r=RANK,
        lora_alpha=2 * RANK,
        use_dora=kind.endswith("dora"),
    )
    model = load_model(settings, seed=seed).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora_A" not in name:
                parameter.add_(SPREAD_OF_B * torch.randn_like(parameter))
    return model


def measure(
    model: torch.nn.Module, base: Path, prompts: Sequence[Prompt], *, dtype: str, kind: str
) -> Figures:
    """Answers ``prompts`` with both engines; vLLM gets the weights of ``kind`` as in a run."""
    reference = TorchEngine(model, eos_ids=(), pad_id=0)
    with tempfile.TemporaryDirectory() as folder:
        dense = DequantisedBase(model, base, fallback=Path(folder)) if kind == "qlora" else None
        merges = kind in ("dora", "qdora")
        settings = VllmSettings(
            model_folder=base if dense is None else dense.folder,
            dtype=dtype,
            max_model_len=max(len(prompt.ids) for prompt in prompts) + NEW_TOKENS,
            eos_ids=(),
            log_path=Path(folder) / "engine.log",
            adapter=None if merges else adapter_config(model),
        )
        vllm = VllmEngine(settings, base=dense)
        engine: EvalEngine = MergingEngine(vllm, model) if merges else vllm
        try:
            engine.swap(capture(model), "measured")
            found = engine.complete(prompts, log_probabilities=True)
        finally:
            engine.close()
    wanted = reference.complete(prompts)
    pairs = [(prompt.ids, one.ids) for prompt, one in zip(prompts, found, strict=True)]
    differences = [
        abs(ours - theirs)
        for one, values in zip(found, reference.log_probabilities(pairs), strict=True)
        for ours, theirs in zip(one.log_probabilities, values, strict=True)
    ]
    return Figures(
        equal=sum(one.ids == other.ids for one, other in zip(found, wanted, strict=True)),
        total=len(prompts),
        mean=sum(differences) / len(differences),
        largest=max(differences),
    )


if __name__ == "__main__":
    sys.exit(main())
