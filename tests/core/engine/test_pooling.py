from __future__ import annotations

import numpy as np
import pytest
import torch
from oracle import pool

from echo_core.config import POOLINGS
from echo_core.engine.pooling import POOLERS, pool_spans

STATES = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))


def test_the_table_serves_exactly_what_the_config_allows():
    assert set(POOLERS) == set(POOLINGS)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_each_pooling_is_its_definition_over_exactly_the_span(pooling: str):
    spans = ((0, 40), (3, 4), (7, 19))
    pooled = pool_spans(STATES, spans, pooling)
    assert pooled.shape == (3, 6)
    assert pooled.dtype == torch.float32
    for (start, end), vector in zip(spans, pooled, strict=True):
        expected = pool(STATES[start:end].double().numpy(), pooling, normalize=False)
        np.testing.assert_allclose(vector.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_half_precision_states_are_summed_in_float32(pooling: str, dtype: torch.dtype):
    """4,096 states of about 1: a sum in bfloat16 stops growing at 256, and one in float16 overflows."""
    states = (30 + torch.rand(4096, 4, generator=torch.Generator().manual_seed(1))).to(dtype)
    pooled = pool_spans(states, ((0, 4096),), pooling)
    np.testing.assert_allclose(pooled[0].numpy(), pool(states.double().numpy(), pooling, normalize=False), rtol=1e-5)


def test_the_weights_of_the_weighted_mean_grow_from_one_to_t():
    states = torch.tensor([[1.0], [0.0], [0.0], [3.0]])
    assert pool_spans(states, ((0, 4),), "weighted_mean").item() == pytest.approx((1 * 1 + 4 * 3) / 10)
