"""Floating-point operations of a token, told from a loaded model, and sizes that go with them.

Only matrix products count; a multiplication and the addition behind it are two operations. Norms,
activation functions, softmax, rotary angles, the cross-entropy, the optimizer's update and the
unpacking of 4-bit weights are left out: they grow with the width where products grow with its
square.

How this relates to the usual estimates, for a model of N parameters without its input embedding:

- Forward 2 N a token, backward 4 N, together 6 N (Kaplan et al., arXiv 2001.08361, section 2.1):
  a product with a matrix of n numbers takes 2 n operations forward, 2 n for the gradient of its
  input and 2 n for that of its weights.
- 4 N where the weights are frozen and an adapter is trained over them: the last 2 n fall away.
- 2 N where nothing is trained.

Deviations, all towards what is really computed: each matrix is asked whether its input and its
weights get a gradient; the output head counts per token that carries loss, since it runs there
alone (see `loss`); biases and the gains of norms, which are in N, are no products; the products of
attention, which are not in N, are counted apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from msft_lite.errors import ModelError
from msft_lite.model.batch import collate
from msft_lite.model.checkpointing import recomputed_layers
from msft_lite.model.four_bit import weight_count
from msft_lite.model.loss import answer_states, base_model, evaluating, output_head
from msft_lite.model.loss_kernel import CHUNKED, LossKernel

# Two tokens of a prompt and one of an answer: a matrix that all tokens pass sees three rows, the
# head sees one.
_ROW = ((0, 1), (2,))
_TOKENS, _ANSWER_TOKENS = 3, 1
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")

Hook: TypeAlias = Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]


@dataclass(frozen=True, slots=True)
class FlopRates:
    """Floating-point operations of matrix products.

    Of rows with T tokens in all, A of which carry loss, and S, the sum of each row's squared
    number of tokens, ``body * T + head * A + attention * S`` are computed, forward and backward.

    Attributes:
        body_forward: a token, all linear layers but the output head, adapters included.
        body_backward: a token; gradients of inputs and of weights, where there are any.
        head_forward: a token that carries loss; a head tied to the embedding counts as well.
        head_backward: a token that carries loss; run in the forward pass if the head is frozen.
        head_recompute: a token that carries loss; logits that the backward pass computes again,
            see `cross_entropy`; 0 if the head is frozen.
        attention_forward: a squared token of a row; scores and weighted values of all query
            heads and layers, as dense attention computes them. A causal kernel may do half.
        attention_backward: a squared token of a row.
        body_recompute: a token; layers that run forward a second time in the backward pass. It is
            a bound: torch stops each layer once it has what the gradients need, so its last product
            is mostly spared.
        attention_recompute: a squared token of a row, of those layers.
    """

    body_forward: int
    body_backward: int
    head_forward: int
    head_backward: int
    head_recompute: int
    attention_forward: int
    attention_backward: int
    body_recompute: int
    attention_recompute: int


@dataclass(frozen=True, slots=True)
class _Product:
    """A matrix as it was met in a forward pass.

    Attributes:
        rows: vectors that were multiplied with it.
        weights: numbers in the matrix, as many as 4 bits stand for.
        gradients: of input and weights, how many are computed: 0 to 2.
    """

    module: nn.Module
    rows: int
    weights: int
    gradients: int


def flop_rates(model: nn.Module, *, loss_kernel: LossKernel = CHUNKED) -> FlopRates | None:
    """Returns the rates of ``model``, or None where they cannot be told.

    They cannot where not every token passes every matrix (a mixture of experts), where weights are
    neither in a linear layer nor in an embedding, where attention is not the usual one, or where
    layers are computed again by code of the model's own.

    The model runs once on three tokens, so that autograd itself says which gradients there are.
    Under an adapter that is not everywhere: nothing below the first adapted layer's query, key and
    value projections is trained, so their input gets no gradient. The model is put in evaluation
    mode and back; no gradient is computed and no random number drawn.

    Args:
        model: as `load_model` returns it; its layers say whether they are computed again.
        loss_kernel: of training; whether it runs the output head twice counts.
    """
    base = base_model(model)
    width = _query_width(base)
    if width is None or _has_other_weights(base):
        return None
    products, gradients = _observed(model, base)
    if {product.module for product in products} != set(_matrices(base)):
        return None
    parts = set(output_head(base).modules())
    head = [product for product in products if product.module in parts]
    body = [product for product in products if product.module not in parts]
    if any(product.rows != _TOKENS for product in body):
        return None
    if any(product.rows != _ANSWER_TOKENS for product in head):
        return None
    layers = int(base.config.get_text_config().num_hidden_layers)
    checkpointed = recomputed_layers(base)
    if base.is_gradient_checkpointing and not checkpointed:
        return None
    again = [inside for layer in checkpointed if (inside := _trained_products(layer, body))]
    return FlopRates(
        body_forward=_forward(body),
        body_backward=_backward(body),
        head_forward=_forward(head),
        head_backward=_backward(head),
        head_recompute=_forward(head) if loss_kernel.recomputes_logits(output_head(base)) else 0,
        attention_forward=4 * width * layers,
        attention_backward=2 * width * _attention_gradients(gradients, layers),
        body_recompute=sum(map(_forward, again)),
        attention_recompute=4 * width * len(again),
    )


def parameters_without_embedding(model: nn.Module) -> int:
    """Returns the base's parameters that are not looked up: the N of the usual estimates.

    Embeddings, of positions too, are left out and adapters are not counted. An output head that is
    tied to the embedding is multiplied with, and counts once.
    """
    base = base_model(model)
    head = {id(parameter) for parameter in output_head(base).parameters()}
    looked_up = {
        id(module.weight) for module in base.modules() if isinstance(module, nn.Embedding)
    } - head
    parameters = _base_parameters(base)
    return sum(weight_count(p) for p in parameters if id(p) not in looked_up)


def model_bytes(model: nn.Module) -> int:
    """Returns the bytes of one full copy of the base's weights, in the dtype of the run.

    Tied tensors count once and adapters do not. Weights held in 4 bits count as the numbers that
    they stand for, since a copy of a model tuned in full would hold those.
    """
    base = base_model(model)
    dtype = _embedding(base).weight.dtype
    return sum(
        weight_count(p) * (p.dtype if p.is_floating_point() else dtype).itemsize
        for p in _base_parameters(base)
    )


def _forward(products: Sequence[_Product]) -> int:
    return sum(2 * product.weights for product in products)


def _backward(products: Sequence[_Product]) -> int:
    return sum(2 * product.weights * product.gradients for product in products)


def _trained_products(layer: nn.Module, body: Sequence[_Product]) -> list[_Product]:
    """Returns the products of ``layer``, none where no gradient reaches it: it runs only once."""
    parts = set(layer.modules())
    inside = [product for product in body if product.module in parts]
    return inside if any(product.gradients for product in inside) else []


def _attention_gradients(found: Mapping[nn.Module, Mapping[str, bool]], layers: int) -> int:
    """Returns how many products of one squared token and one unit of width run backward.

    Four a layer: of the scores' gradient towards queries and towards keys, and of the weighted
    values' gradient towards weights and towards values. What has no trained weight below falls
    away. A layer whose projections are not named as usual counts in full: that is one layer too
    much at most where the first layer is adapted.
    """
    total = 4 * (layers - len(found))
    for needs in found.values():
        query, key, value = (needs[name] for name in _PROJECTIONS)
        total += (query or key) + query + key + value
    return total


def _observed(
    model: nn.Module, base: PreTrainedModel
) -> tuple[list[_Product], dict[nn.Module, dict[str, bool]]]:
    """Runs the model on one row.

    Returns:
        Every matrix product, and for every attention module whether queries, keys and values get
        a gradient.
    """
    products: list[_Product] = []
    gradients: dict[nn.Module, dict[str, bool]] = {}
    hooks = [(matrix, _product_hook(products)) for matrix in _matrices(base)]
    for attention in base.modules():
        children = dict(attention.named_children())
        if set(_PROJECTIONS) <= set(children):
            needs = gradients.setdefault(attention, {})
            hooks += [(children[name], _gradient_hook(needs, name)) for name in _PROJECTIONS]
    batch = collate([_ROW], pad_id=0, device=_embedding(base).weight.device)
    with _hooked(hooks), evaluating(model), torch.enable_grad():
        # The loss calls no module for the logits of a plain head, so the head is asked here.
        output_head(base)(answer_states(model, batch))
    return products, gradients


@contextmanager
def _hooked(hooks: Sequence[tuple[nn.Module, Hook]]) -> Iterator[None]:
    """Calls each hook after the forward pass of its module, and removes all of them again."""
    with ExitStack() as stack:
        for module, hook in hooks:
            stack.callback(module.register_forward_hook(hook).remove)
        yield


def _product_hook(products: list[_Product]) -> Hook:
    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        vectors, weight = inputs[0], module.get_parameter("weight")
        rows = vectors.shape[:-1].numel()
        gradients = int(vectors.requires_grad) + int(weight.requires_grad)
        products.append(_Product(module, rows, weight_count(weight), gradients))

    return note


def _gradient_hook(needs: dict[str, bool], name: str) -> Hook:
    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        needs[name] = output.requires_grad

    return note


def _matrices(base: PreTrainedModel) -> list[nn.Module]:
    """Returns all modules that multiply with a matrix, the parts of adapters among them."""
    return [module for module in base.modules() if isinstance(module, nn.Linear | Conv1D)]


def _has_other_weights(base: PreTrainedModel) -> bool:
    known = nn.Linear | Conv1D | nn.Embedding
    return any(
        parameter.dim() > 1
        for module in base.modules()
        if not isinstance(module, known)
        for parameter in module.parameters(recurse=False)
    )


def _query_width(base: PreTrainedModel) -> int | None:
    """Returns the width of all query heads of a layer, or None if it is not plain in the config."""
    config = base.config.get_text_config()
    settings = config.to_dict()
    names = config.attribute_map
    heads = settings.get(names.get("num_attention_heads", "num_attention_heads"))
    hidden = settings.get(names.get("hidden_size", "hidden_size"))
    # Latent attention has keys and values of different widths.
    if not isinstance(heads, int) or not isinstance(hidden, int) or "kv_lora_rank" in settings:
        return None
    return heads * (settings.get("head_dim") or hidden // heads)


def _base_parameters(base: PreTrainedModel) -> list[nn.Parameter]:
    return [p for name, p in base.named_parameters() if ".lora_" not in name]


def _embedding(base: PreTrainedModel) -> nn.Embedding:
    embedding = base.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding):
        raise ModelError(f"{type(base).__name__} has no input embedding")
    return embedding
