from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from msft_lite.engine.base import Completion, Prompt
from msft_lite.engine.torch_engine import TorchEngine
from msft_lite.errors import EngineError
from msft_lite.model.load import capture, trainable_parameters
from msft_lite.model.weights import Weights

NO_END = (9999,)


def prompts(count: int = 12, seed: int = 3) -> list[Prompt]:
    draw = random.Random(seed)
    return [
        Prompt(
            tuple(draw.randrange(1, 257) for _ in range(draw.randint(1, 60))), draw.randint(1, 14)
        )
        for _ in range(count)
    ]


@pytest.fixture
def model(tiny_model_folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(tiny_model_folder)


@pytest.fixture
def adapted(model: PreTrainedModel) -> PeftModel:
    return get_peft_model(model, LoraConfig(r=4, lora_dropout=0.3, target_modules="all-linear"))


def shifted(weights: Weights, by: float) -> Weights:
    return Weights(weights.kind, {name: t + by for name, t in weights.tensors.items()})


def engine_of(model: torch.nn.Module, batch_size: int = 5) -> TorchEngine:
    return TorchEngine(model, eos_ids=NO_END, pad_id=0, batch_size=batch_size)


def generate_alone(model: PreTrainedModel, prompt: Prompt) -> tuple[int, ...]:
    ids = torch.tensor([prompt.ids])
    output: Any = model.generate(  # pyright: ignore[reportCallIssue]
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=prompt.max_new_tokens,
        min_new_tokens=prompt.max_new_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return tuple(output[0, len(prompt.ids) :].tolist())


def test_greedy_tokens_are_those_of_transformers_alone_whatever_the_batch(
    model: PreTrainedModel,
) -> None:
    model.generation_config.eos_token_id = None
    model.eval()
    wanted = [generate_alone(model, prompt) for prompt in prompts()]
    for batch_size in (1, 5, 64):
        found = engine_of(model, batch_size).complete(prompts())
        assert found == [Completion(ids) for ids in wanted]


def test_a_text_stops_at_the_first_end_token_and_includes_it(model: PreTrainedModel) -> None:
    whole = engine_of(model).complete(prompts())
    end = whole[0].ids[len(whole[0].ids) // 2]
    stopped = TorchEngine(model, eos_ids=(end,), pad_id=0, batch_size=5).complete(prompts())
    for one, other in zip(whole, stopped, strict=True):
        length = one.ids.index(end) + 1 if end in one.ids else len(one.ids)
        assert other.ids == one.ids[:length]
    assert any(len(one.ids) < len(other.ids) for one, other in zip(stopped, whole, strict=True))


def test_rows_that_have_ended_leave_the_batch(model: PreTrainedModel) -> None:
    lengths = [30, 2, 9, 2, 30, 5, 2, 2]
    asked = [Prompt(prompt.ids, count) for prompt, count in zip(prompts(8), lengths, strict=True)]
    computed: list[int] = []
    forward = model.forward
    model.forward = lambda *a, **k: (computed.append(len(k["input_ids"])), forward(*a, **k))[1]
    together = engine_of(model, 8).complete(asked, log_probabilities=True)
    # Half leave after 2 tokens; the next leaves after 5, but only after 9 are half of 4 left.
    assert computed == [8] * 2 + [4] * 7 + [2] * 21
    for one, prompt in zip(together, asked, strict=True):
        (alone,) = engine_of(model).complete([prompt], log_probabilities=True)
        assert one.ids == alone.ids
        # Sums over another number of rows round differently; 2e-5 measured with 10M parameters.
        assert one.log_probabilities == pytest.approx(alone.log_probabilities, abs=1e-4)


def test_candidates_are_weighed_beside_texts_that_are_written(model: PreTrainedModel) -> None:
    engine = engine_of(model)
    asked = prompts()
    mixed = [
        Prompt(prompt.ids, 1, (5, 9, 60)) if place % 3 else prompt
        for place, prompt in enumerate(asked)
    ]
    found, written = engine.complete(mixed), engine.complete(asked)
    for place, prompt in enumerate(mixed):
        if not prompt.candidates:
            assert found[place] == written[place]
            continue
        pairs = [(prompt.ids, (token,)) for token in prompt.candidates]
        wanted = [value for (value,) in engine.log_probabilities(pairs)]
        assert found[place].ids == ()
        # The same sums over batches of other widths.
        assert found[place].log_probabilities == pytest.approx(wanted, abs=1e-4)


def test_log_probabilities_of_decoding_and_of_one_forward_pass_agree(
    model: PreTrainedModel,
) -> None:
    engine = engine_of(model)
    found = engine.complete(prompts(), log_probabilities=True)
    pairs = zip(prompts(), found, strict=True)
    scored = engine.log_probabilities([(prompt.ids, one.ids) for prompt, one in pairs])
    for one, values in zip(found, scored, strict=True):
        assert len(one.log_probabilities) == len(one.ids)
        # Cached and uncached attention round differently; measured 4e-6.
        assert one.log_probabilities == pytest.approx(values, abs=1e-4)
    assert engine.log_probabilities([((5, 6), ()), ((7,), (8, 9))])[0] == []


def test_swapped_weights_answer_until_the_next_swap(adapted: PeftModel) -> None:
    engine = engine_of(adapted)
    start = capture(adapted)
    base = engine.complete(prompts())
    engine.swap(shifted(start, 0.05), "a")
    changed = engine.complete(prompts())
    assert changed != base
    assert engine.complete(prompts()) == changed
    engine.swap(start, "root")
    assert engine.complete(prompts()) == base
    engine.swap(shifted(start, 0.05), "a")
    engine.close()
    assert engine.complete(prompts()) == base


@pytest.mark.parametrize("kind", ["adapter", "full"])
def test_nothing_in_the_trainer_changes(
    model: PreTrainedModel, tiny_model_folder: Path, kind: str
) -> None:
    trained = model
    if kind == "adapter":
        trained = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear"))
    trained.train()
    next(trained.children()).eval()
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    places = {name: p.data_ptr() for name, p in trainable_parameters(trained).items()}
    modes = [module.training for module in trained.modules()]
    states = (torch.get_rng_state(), random.getstate(), torch.is_grad_enabled())
    engine = engine_of(trained)
    engine.swap(shifted(capture(trained), 0.05), "a")
    engine.complete(prompts(4), log_probabilities=True)
    engine.log_probabilities([((1, 2), (3,))])
    assert all(torch.equal(before[name], t) for name, t in trained.state_dict().items())
    assert places == {name: p.data_ptr() for name, p in trainable_parameters(trained).items()}
    assert modes == [module.training for module in trained.modules()]
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (random.getstate(), torch.is_grad_enabled())
    assert all(p.grad is None for p in trained.parameters())


def test_a_failure_on_the_way_restores_the_trainer_too(adapted: PeftModel) -> None:
    adapted.train()
    before = capture(adapted)
    engine = engine_of(adapted)
    engine.swap(shifted(before, 0.05), "a")
    with pytest.raises(IndexError):
        engine.complete([Prompt((100_000,), 2)])
    after = capture(adapted)
    assert all(torch.equal(before.tensors[name], t) for name, t in after.tensors.items())
    assert adapted.training


@pytest.mark.parametrize(
    ("error", "batch_size", "advice"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory"),
            5,
            r"\(CUDA out .* engine.batch_size below 5",
        ),
        (RuntimeError("can't allocate memory: 9 bytes"), 5, "lower engine.batch_size below 5"),
        (MemoryError(), 1, r"\(MemoryError\); .* is 1 already: lower eval.max_prompt_length"),
    ],
)
def test_memory_that_runs_out_is_told_and_the_trainer_restored(
    adapted: PeftModel, error: Exception, batch_size: int, advice: str
) -> None:
    before = capture(adapted)
    engine = engine_of(adapted, batch_size)
    engine.swap(shifted(before, 0.05), "a")

    def fail(*_: object) -> None:
        raise error

    hook = adapted.register_forward_pre_hook(fail)
    with pytest.raises(EngineError, match=f"ran out of memory on cpu .*{advice}"):
        engine.complete(prompts())
    with pytest.raises(EngineError, match=advice):
        engine.log_probabilities([((1, 2), (3,))])
    hook.remove()
    after = capture(adapted)
    assert all(torch.equal(before.tensors[name], t) for name, t in after.tensors.items())


def test_another_failure_keeps_its_name(adapted: PeftModel) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("something else")

    adapted.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="something else"):
        engine_of(adapted).complete(prompts())


def test_weights_of_another_model_are_refused_by_name(adapted: PeftModel) -> None:
    engine = engine_of(adapted)
    weights = capture(adapted)
    name = min(weights.tensors)
    fewer = {key: tensor for key, tensor in weights.tensors.items() if key != name}
    with pytest.raises(EngineError, match=f"only the model has {name}"):
        engine.swap(Weights("adapter", fewer), "s1")
    with pytest.raises(EngineError, match="only the snapshot has other"):
        engine.swap(Weights("adapter", {**weights.tensors, "other": torch.ones(1)}), "s1")
    with pytest.raises(EngineError, match="snapshot s1 .* there and"):
        engine.swap(Weights("adapter", {**weights.tensors, name: torch.ones(1)}), "s1")


def test_prompts_without_tokens_are_refused(model: PreTrainedModel) -> None:
    with pytest.raises(EngineError, match="prompt 1 has 0 tokens"):
        engine_of(model).complete([Prompt((1,), 1), Prompt((), 1)])
    with pytest.raises(EngineError, match="asks for 0 new ones"):
        engine_of(model).complete([Prompt((1,), 0)])
    assert engine_of(model).complete([]) == []
    assert engine_of(model).ready()
