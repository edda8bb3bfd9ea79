"""What a step is judged by; all of it reads the vectors of one pass. Vectors are (N, D) float32 of unit length."""

from __future__ import annotations

import torch
from recipe import Recipe
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div


def contrast(
    queries: Tensor, passages: Tensor, guide_queries: Tensor, guide_passages: Tensor, recipe: Recipe
) -> Tensor:
    """Each query's own passage, the one with its number, among all, and each passage's query.

    Others that the guide finds as near as the own one are left out (GIST, arXiv 2402.16829).
    """
    count = len(queries)
    own = (guide_queries * guide_passages[:count]).sum(1) - recipe.guide_margin
    places = torch.arange(count, device=queries.device)
    scores, seen = queries @ passages.T / recipe.temperature, guide_queries @ guide_passages.T
    doubtful = seen >= own[:, None]
    doubtful[places, places] = False
    forth = cross_entropy(scores.masked_fill(doubtful, -torch.inf), places)
    doubtful_back = own[:, None] <= seen[:, :count].T
    doubtful_back[places, places] = False
    back = cross_entropy(scores[:, :count].T.masked_fill(doubtful_back, -torch.inf), places)
    return (forth + back) / 2


def ranking(vectors: Tensor, guide: Tensor, recipe: Recipe) -> Tensor:
    """The divergence of the softmaxes of similarities: how far each text ranks the others from how the guide does."""
    own = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    found, wanted = (
        (each @ each.T / recipe.temperature).masked_fill(own, -1e4).log_softmax(1) for each in (vectors, guide)
    )
    return kl_div(found, wanted, reduction="batchmean", log_target=True)


def similarity(vectors: Tensor, guide: Tensor) -> Tensor:
    """The mean square by which cosines of two texts differ from the guide's."""
    return (vectors @ vectors.T - guide @ guide.T).square().mean()


def language(states: Tensor, ids: Tensor, last: Tensor, head: Tensor, count: int) -> Tensor:
    """Next-token loss at some places of rows laid end to end, so that states still read as words.

    Args:
        states: (T, D) of all places.
        ids: (T,).
        last: (R,) the last place of each row, which no token follows.
        head: (V, D) of the language model.
        count: places that are drawn.
    """
    open_ended = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
    open_ended[last] = False
    places = open_ended.nonzero().squeeze(1)
    places = places[torch.randint(len(places), (count,), device=ids.device)]
    return cross_entropy((states[places] @ head.T).float(), ids[places + 1])
