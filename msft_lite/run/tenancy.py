"""Settles, before a run begins, how trainer and engine share the memory of one device."""

from __future__ import annotations

from dataclasses import replace

import torch

from msft_lite.engine.checkpoint_names import CheckpointNames
from msft_lite.engine.shared_weights import SharedWeights
from msft_lite.engine.tenancy import Tenancy, choose_tenancy
from msft_lite.errors import EngineError, ModelError
from msft_lite.model.folder import base_folder
from msft_lite.run.handover import may_share
from msft_lite.run.memory import config_of, demand_of, steps_of
from msft_lite.run.workshop import Workshop


def settled_tenancy(shop: Workshop) -> Workshop:
    """Returns ``shop`` with what was settled, and tells the user; as it is where vllm is not used.

    On a GPU this predicts a training step, as `msft-lite check` does.

    Raises:
        EngineError: the recipe wants one copy of the weights and vllm could not take that.
    """
    if shop.choice.kind != "vllm":
        return shop
    shared = _shared(shop)
    tenancy = _chosen(shop, shares=shared is not None)
    shop.watch.say(tenancy.line)
    return replace(shop, tenancy=tenancy, shared=shared)


def _shared(shop: Workshop) -> SharedWeights | None:
    if not may_share(shop.recipe, shop.settings):
        return None
    device = next(shop.model.parameters()).device
    try:
        return SharedWeights(shop.model, CheckpointNames.of(base_folder(shop.settings)), device)
    except EngineError as error:
        if shop.recipe.engine.share_weights is True:
            raise EngineError(f"engine.share_weights = true: {error}") from error
        shop.watch.say(f"vllm gets a copy of the weights, as it cannot share them: {error}")
        return None


def _chosen(shop: Workshop, *, shares: bool) -> Tenancy:
    if shop.settings.device != "cuda":
        return Tenancy("share" if shares else "resident")
    try:
        steps = steps_of(shop.recipe, shop.tasks, config_of(shop.settings))
    except ModelError:  # a model whose step cannot be predicted
        return Tenancy("share" if shares else "resident")
    unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    free = torch.cuda.mem_get_info()[0] + unused
    is_full = shop.settings.tuning == "full"
    return choose_tenancy(demand_of(steps, free), shares=shares, sleeps=True, is_full=is_full)
