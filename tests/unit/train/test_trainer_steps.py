"""One optimizer step: its result, its refusals, its state."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from msft_lite.data.task import Example
from msft_lite.errors import OutOfMemory, SnapshotError, TrainError
from msft_lite.model.batch import collate
from msft_lite.model.load import ModelSettings, load_model, trainable_parameters
from msft_lite.model.loss import row_losses
from msft_lite.train.settings import Optim, TrainSettings
from msft_lite.train.trainer import StepResult, Trainer

ROWS = [
    Example("arc", 0, (5, 6, 7), (8, 0)),
    Example("gsm", 4, (9, 3), (1, 2, 3, 0)),
    Example("arc", 1, (2,), (4, 0)),
]
SETTINGS = TrainSettings(learning_rate=1e-3, per_device_train_batch_size=2)


@pytest.fixture(scope="module")
def untied_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose input embedding is not its output head."""
    folder = tmp_path_factory.mktemp("untied")
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture
def model(untied_folder: Path) -> torch.nn.Module:
    return load_model(ModelSettings(str(untied_folder), tuning="full"), seed=1)


def trainer_of(model: torch.nn.Module, settings: TrainSettings = SETTINGS) -> Trainer:
    return Trainer(model, settings, seed=20, pad_id=0)


def bits(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {**trainer.capture().tensors, **trainer.state()[0]}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def test_losses_come_back_per_task_with_their_tokens(model: torch.nn.Module) -> None:
    pairs = [(e.prompt, e.answer) for e in ROWS]
    expected = row_losses(model, collate(pairs, pad_id=0, device="cpu")).tolist()
    result = trainer_of(model).step(ROWS)
    assert isinstance(result, StepResult)
    assert list(result.losses) == ["arc", "gsm"]
    assert {task: loss.tokens for task, loss in result.losses.items()} == {"arc": 4, "gsm": 4}
    assert result.losses["gsm"].loss_sum == pytest.approx(expected[1])
    assert result.losses["arc"].loss_sum == pytest.approx(expected[0] + expected[2])
    assert result.work.tokens == 5 + 6 + 3
    assert result.learning_rate == 1e-3
    assert result.gradient_norm > 0


def test_silent_tokens_count_as_prompt(model: torch.nn.Module) -> None:
    """Two of six answer tokens are silent: four carry the loss and divide it."""
    chat = Example("chat", 0, (5, 6), (7, 8, 1, 2, 9, 0), ((2, 4),))
    said = [((5, 6), (7, 8)), ((5, 6, 7, 8, 1, 2), (9, 0))]
    expected = row_losses(model, collate(said, pad_id=0, device="cpu"))
    gradients = torch.autograd.grad(expected.sum() / 4, list(trainable_parameters(model).values()))
    result = trainer_of(model).step([chat])
    assert result.losses["chat"].tokens == 4
    assert result.losses["chat"].loss_sum == pytest.approx(expected.sum().item(), rel=1e-5)
    assert result.work.tokens == 8
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients))
    assert result.gradient_norm == pytest.approx(norm, rel=1e-4)


def test_the_first_update_is_that_of_adamw(model: torch.nn.Module) -> None:
    """Worked by hand: after one step both bias-corrected moments are g and g * g."""
    settings = replace(SETTINGS, weight_decay=0.1, per_device_train_batch_size=8)
    parameters = trainable_parameters(model)
    before = {n: p.detach().clone() for n, p in parameters.items()}
    pairs = [(e.prompt, e.answer) for e in ROWS]
    losses = row_losses(model, collate(pairs, pad_id=0, device="cpu"))
    gradients = torch.autograd.grad(losses.sum() / 8, list(parameters.values()))
    trainer_of(model, settings).step(ROWS)
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        direction = gradient / (gradient.abs() + settings.adam_epsilon)
        expected = before[name] * (1 - 1e-3 * 0.1) - 1e-3 * direction
        # where |g| is near epsilon its last bits show: a thousandth of the step is allowed
        torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-6)


def test_moments_are_named_after_parameters(model: torch.nn.Module) -> None:
    trainer = trainer_of(model)
    names = list(trainer.capture().tensors)
    moments, counters = trainer.state()
    assert list(moments) == [f"{m}.{n}" for m in ("exp_avg", "exp_avg_sq") for n in names]
    assert counters == {"key": "", "steps": 0}
    trainer.renew("stage 2")
    trainer.step(ROWS)
    assert trainer.state()[1] == {"key": "stage 2", "steps": 1}
    assert trainer.steps == 1


def test_the_state_shares_no_memory_with_the_trainer(model: torch.nn.Module) -> None:
    trainer = trainer_of(model)
    trainer.step(ROWS)
    kept = bits(trainer)
    copies = {name: tensor.clone() for name, tensor in kept.items()}
    trainer.step(ROWS)
    assert same(kept, copies)
    assert not same(kept, bits(trainer))


@pytest.mark.parametrize("optim", ["adamw", "adamw_8bit"])
def test_moments_that_waited_on_the_host_are_the_same_bits(
    tiny_model_folder: Path, optim: Optim
) -> None:
    if optim != "adamw":
        pytest.importorskip("bitsandbytes")
    ends = []
    for is_parked in (False, True):
        model = load_model(ModelSettings(str(tiny_model_folder), tuning="full"), seed=1)
        trainer = trainer_of(model, replace(SETTINGS, optim=optim))
        trainer.step(ROWS)
        before = bits(trainer)
        if is_parked:
            with trainer.parked():
                assert same(bits(trainer), before)
            assert same(bits(trainer), before)
        trainer.step(ROWS)
        ends.append(bits(trainer))
    assert same(*ends)


def test_renewing_forgets_the_moments_and_keeps_the_weights(model: torch.nn.Module) -> None:
    trainer = trainer_of(model)
    trainer.step(ROWS)
    weights = trainer.capture().tensors
    trainer.renew("next")
    assert all(not tensor.any() for tensor in trainer.state()[0].values())
    assert all(torch.equal(tensor, trainer.capture().tensors[n]) for n, tensor in weights.items())
    assert trainer.steps == 0


def test_clipping_scales_the_whole_gradient(model: torch.nn.Module) -> None:
    trainer = trainer_of(model, replace(SETTINGS, max_grad_norm=0.01))
    norm = trainer.step(ROWS).gradient_norm
    assert norm > 0.01
    first = [t for n, t in trainer.state()[0].items() if n.startswith("exp_avg.")]
    length = math.sqrt(sum(float(t.double().square().sum()) for t in first))
    assert length == pytest.approx(0.1 * 0.01, rel=1e-4)  # beta1 = 0.9


def test_a_gradient_below_the_limit_is_left_alone(untied_folder: Path) -> None:
    settings = ModelSettings(str(untied_folder), tuning="full")
    free, limited = (
        trainer_of(load_model(settings, seed=1), replace(SETTINGS, max_grad_norm=limit))
        for limit in (0.0, 1e6)
    )
    free.step(ROWS)
    limited.step(ROWS)
    assert same(bits(free), bits(limited))


def test_warm_up_sets_the_rate_of_each_step(model: torch.nn.Module) -> None:
    trainer = trainer_of(model, replace(SETTINGS, warmup_steps=4))
    rates = [trainer.step(ROWS).learning_rate for _ in range(5)]
    assert rates == [0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3]


def test_a_parameter_without_gradient_is_of_no_harm(model: torch.nn.Module) -> None:
    model.register_parameter("unused", torch.nn.Parameter(torch.ones(2)))
    trainer = trainer_of(model)
    trainer.step(ROWS)
    assert trainer.capture().tensors["unused"].tolist() == [1.0, 1.0]
    moments, counters = trainer.state()
    trainer.restore_state(moments, counters)
    assert same(dict(moments), dict(trainer.state()[0]))


def refuse(trainer: Trainer, rows: list[Example], message: str) -> str:
    """Asserts that the step is refused and changes nothing; returns the message."""
    before, steps = bits(trainer), trainer.steps
    with pytest.raises(TrainError, match=message) as caught:
        trainer.step(rows)
    after = bits(trainer)
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=0, equal_nan=True)
    assert trainer.steps == steps
    return str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_names_its_rows(model: torch.nn.Module, value: float) -> None:
    trainer = trainer_of(model)
    trainer.step(ROWS)
    with torch.no_grad():
        model.get_parameter("model.embed_tokens.weight")[9] = value  # in a prompt of gsm alone
    text = refuse(trainer, ROWS, "step 2: the loss is not finite")
    assert "gsm row 4" in text
    assert "arc" not in text


def test_many_bad_rows_are_counted(model: torch.nn.Module) -> None:
    with torch.no_grad():
        model.get_parameter("lm_head.weight").fill_(math.nan)
    rows = [replace(ROWS[0], row=n) for n in range(11)]
    assert "arc row 7 and 3 more rows" in refuse(trainer_of(model), rows, "not finite")


def test_a_zero_loss_is_refused(model: torch.nn.Module) -> None:
    with torch.no_grad():
        model.get_parameter("lm_head.weight").mul_(1e6)
        best = int(model(input_ids=torch.tensor([[5, 6]])).logits[0, -1].argmax())
    row = Example("arc", 3, (5, 6), (best,))
    text = refuse(trainer_of(model), [row], "step 1: the loss is exactly zero")
    assert "arc row 3" in text
    # one such row among others is a row that is known by heart
    trainer_of(model).step([row, replace(row, row=4, answer=((best + 1) % 40,))])


def test_a_gradient_that_is_not_finite_names_its_tensor(model: torch.nn.Module) -> None:
    trainer = trainer_of(model)
    parameter = model.get_parameter("model.norm.weight")
    parameter.register_hook(lambda gradient: gradient * math.inf)
    text = refuse(trainer, ROWS, "step 1: the gradient is not finite")
    assert "'model.norm.weight'" in text
    assert "gsm row 4" in text


def test_rows_that_cannot_be_trained_on_are_refused(model: torch.nn.Module) -> None:
    trainer = trainer_of(model)
    refuse(trainer, [], "step 1: no rows")
    refuse(trainer, [Example("arc", 7, (), (1,))], "arc row 7 has an empty prompt")
    refuse(trainer, [Example("arc", 7, (1,), ())], "arc row 7 has an empty answer")
    nothing = Example("arc", 7, (1,), (2, 3), ((0, 2),))
    refuse(trainer, [nothing], "arc row 7 has no token that carries loss")
    refuse(trainer, [Example("arc", 7, (1,), (40,))], "arc row 7 has token id 40.*knows 40")


def test_out_of_memory_is_told_as_such(model: torch.nn.Module) -> None:
    def too_much(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        torch.empty(1 << 60, dtype=torch.uint8)

    trainer = trainer_of(model)
    handle = model.get_submodule("model.norm").register_forward_pre_hook(too_much)
    text = refuse(trainer, ROWS, "step 1: out of memory on cpu")
    assert "can't allocate memory" in text
    with pytest.raises(OutOfMemory, match="step 1"):
        trainer.log_probabilities([((1,), (2,))])
    with pytest.raises(OutOfMemory, match="step 1"):
        trainer.losses(ROWS)
    handle.remove()
    trainer.step(ROWS)


def test_losses_are_means_over_the_tokens_of_a_row(model: torch.nn.Module) -> None:
    chat = Example("chat", 0, (5, 6), (7, 8, 1, 2, 9, 0), ((2, 4),))
    said = [((5, 6), (7, 8)), ((5, 6, 7, 8, 1, 2), (9, 0))]
    pairs = [(e.prompt, e.answer) for e in ROWS]
    sums = row_losses(model, collate([*pairs, *said], pad_id=0, device="cpu")).tolist()
    expected = [sums[0] / 2, sums[1] / 4, sums[2] / 2, (sums[3] + sums[4]) / 4]
    rows = [*ROWS, chat]
    for batch_rows in (1, 2, 3, 8):
        settings = replace(SETTINGS, per_device_train_batch_size=batch_rows)
        # other batches may take other kernels: a few units in the last place of float32
        assert trainer_of(model, settings).losses(rows) == pytest.approx(expected, rel=1e-5)
    trainer = trainer_of(model)
    assert trainer.losses(rows[::-1]) == pytest.approx(expected[::-1], rel=1e-5)
    assert trainer.losses([]) == []


def test_losses_refuse_what_a_step_refuses(model: torch.nn.Module) -> None:
    trainer = trainer_of(model)
    with pytest.raises(TrainError, match="arc row 7 has token id 40.*knows 40"):
        trainer.losses([Example("arc", 7, (1,), (40,))])
    with torch.no_grad():
        model.get_parameter("model.embed_tokens.weight")[9] = math.nan  # in a prompt of gsm alone
    with pytest.raises(TrainError, match="the loss is not finite .* on gsm row 4;"):
        trainer.losses(ROWS)


def test_other_errors_are_not_taken_for_lack_of_memory(model: torch.nn.Module) -> None:
    def fail(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        raise RuntimeError("something else")

    model.get_submodule("model.norm").register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="something else"):
        trainer_of(model).step(ROWS)


def test_a_foreign_state_is_refused_by_tensor_name(model: torch.nn.Module) -> None:
    trainer = trainer_of(model)
    trainer.step(ROWS)
    before = bits(trainer)
    moments, counters = trainer.state()
    first = next(iter(moments))
    rest = {n: t for n, t in moments.items() if n != first}
    for wrong, message in (
        (rest, "is missing"),
        ({**rest, first: torch.zeros(3)}, r"float32 \[3\]"),
        ({**rest, first: moments[first].bfloat16()}, "is bfloat16"),
    ):
        with pytest.raises(SnapshotError, match=message) as caught:
            trainer.restore_state(wrong, counters)
        assert repr(first) in str(caught.value)
    with pytest.raises(SnapshotError, match=r"'exp_avg\.more' is not in the model"):
        trainer.restore_state({**moments, "exp_avg.more": torch.zeros(1)}, counters)
    for wrong_counters in ({}, {"key": "", "steps": -1}, {"key": 3, "steps": 1}):
        with pytest.raises(SnapshotError, match="counters are damaged"):
            trainer.restore_state(moments, wrong_counters)
    assert same(before, bits(trainer))


def test_peak_bytes_are_at_least_the_weights(model: torch.nn.Module) -> None:
    trainer = trainer_of(model)
    assert trainer.peak_bytes() > trainer.capture().total_bytes


def test_training_lowers_the_loss(tiny_model_folder: Path) -> None:
    model = load_model(ModelSettings(str(tiny_model_folder), lora_r=4, dtype="bfloat16"), seed=1)
    trainer = trainer_of(model, replace(SETTINGS, learning_rate=1e-2))
    losses = [sum(x.loss_sum for x in trainer.step(ROWS).losses.values()) for _ in range(8)]
    assert losses[-1] < 0.5 * losses[0]
