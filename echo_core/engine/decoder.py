"""A model of transformers as what gives states: ids in, hidden states at the read-out layers out.

Any decoder-only model serves, without code for single families, and also one that somebody else loaded and may train:
``states`` is for inference, with our attention and pruned; ``forward`` runs the model as it stands, with gradients.
``loading.py`` makes one of a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from echo_core.engine.architecture import exact_attention, sliding_window_of
from echo_core.engine.attention.choose import OWN, use_attention
from echo_core.engine.attention.interface import register_attention
from echo_core.engine.attention.packing import packing_arguments
from echo_core.engine.batches import Batch, to_device
from echo_core.engine.fit import Fit, fit_model
from echo_core.engine.memory import Widths, choose_budget
from echo_core.engine.prefix_cache import Prefix
from echo_core.engine.probes import ProbeRows
from echo_core.engine.readout import ReadOut, Take, mean_of
from echo_core.engine.rotation import rotation_of
from echo_core.engine.speedups.pruning import WORTH
from echo_core.errors import ModelError
from echo_core.process.forks import load_lock


class Decoder:
    """The decoder layers of a causal language model up to the read-out; picklable, and threads may share one."""

    def __init__(
        self,
        model: Any,
        layers: Sequence[int],
        prepend_layers: int | None = None,
        *,
        attention: str = "auto",
        keeps: bool = True,
        probe_ids: Sequence[int] = (),
    ) -> None:
        """Wrap a model: drop the layers after the read-out and hook in; it is not run before its first use.

        Args:
            model: of transformers, on any device; of one with an LM head or a vision part the language model is taken.
            layers: those whose mean ``states`` gives, 1… from the start, or -1 (the last) downwards.
            prepend_layers: see ``token_prepending.py``; None: off.
            attention: of config.ATTENTIONS; or OWN, and the model's attention is never switched.
            keeps: whether a batch may have a ``prefix``; not where code would be compiled for each.
            probe_ids: ids of plain text that the model is tried out on; none: ids from the middle of the vocabulary.

        Raises:
            ConfigError: a layer that the model does not have, or more layers to prepend through than run.
            ModelError: its layers are not in one ModuleList.
        """
        self.model = getattr(model.base_model, "language_model", model.base_model)
        self.settings = self.model.config.get_text_config(decoder=True)
        self.readout = ReadOut(self.model, self.settings, layers, prepend_layers)
        self.vocabulary: int = self.settings.vocab_size
        self.rotation = rotation_of(self.model)
        self.sliding_window = sliding_window_of(self.settings)  # tokens that a token sees in its layers; None: all
        self.keeps = keeps
        self._probe_ids, self._wanted = tuple(probe_ids), attention
        if attention != OWN and (exact := exact_attention(self.model.config)):
            use_attention(self.model, exact)
        self._own = self.model.config._attn_implementation
        self._fits: dict[tuple[torch.device, torch.dtype], Fit] = {}

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._embeddings.device

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        return self._embeddings.dtype

    @property
    def _embeddings(self) -> Tensor:
        """The weight that every model has; transformers' own ``device`` and ``dtype`` take longer to find one."""
        return self.model.get_input_embeddings().weight  # type: ignore[no-any-return]

    @property
    def layout(self) -> str:
        """How rows shall lie for ``states``, of ``choose.LAYOUTS``; raises like ``prepare``."""
        return self.prepare().attention.layout

    @property
    def width(self) -> int:
        """Numbers in a state, D; raises like ``prepare``."""
        return self.prepare().width

    def choose_budget(self) -> int:
        """Tokens of a batch that suit the device, its free memory and the model's shape."""
        return choose_budget(self.device, self.dtype, Widths.of(self.settings))

    def takes_whole(self, lengths: Sequence[int]) -> bool:
        """False: batches of rows of these lengths may share what the rows begin with; see ``speedups/graphs.py``."""
        return False

    @torch.inference_mode()
    def states(self, batch: Batch) -> Tensor:
        """States of all positions laid flat, right for those within spans: (B·T, D) on the device, without gradients.

        They are by the attention that serves best; those of one layer in the model's dtype, of several in float32.

        Raises:
            ModelError: see ``prepare``.
        """
        taken: list[Tensor] = []
        self.run(batch, self.readout.places, lambda _, states: taken.append(states))
        return mean_of(taken).flatten(0, 1)

    def run(self, batch: Batch, wanted: Collection[int], take: Take) -> None:
        """One pass for inference, by the attention that serves, pruned where that pays; raises like ``prepare``.

        ``take`` gets the states at the ``wanted`` places of ``readout.layers``, one layer after the other.
        """
        fit = self.prepare()
        ids = to_device(batch.ids, fit.device)
        slots = to_device(torch.tensor(batch.slots, dtype=torch.int64).T, fit.device) if batch.slots else None
        pooled = batch if ids.numel() >= WORTH else None
        with fit.pruning.only_for(pooled, fit.device) if fit.pruning else nullcontext():
            self.readout.run(self._pass(ids, batch.lengths, batch.shared, batch.prefix), wanted, take, slots)

    def forward(
        self,
        ids: Tensor,
        lengths: Sequence[int] | None = None,
        shared: int = 0,
        prefix: Prefix | None = None,
        slots: Tensor | None = None,
    ) -> Tensor:
        """States (B, T, D) at the read-out, by the attention that the model has at present; with gradients.

        Args:
            ids: (B, T) on the device, rows padded on the right, as pooled tokens never see the padding and no mask is
                needed; or, with ``lengths``, all rows end to end: (1, N).
            lengths: tokens of each row laid end to end; with our attention only, as are the next two.
            shared: tokens that stand before all rows laid end to end, once.
            prefix: keeps the shared tokens' keys and values, or, filled, has them, and the ids are without these
                tokens.
            slots: see ``token_prepending.overwrite``.
        """
        return self.readout.mean(self._pass(ids, lengths, shared, prefix), slots)

    def train_states(self, ids: Tensor, lengths: Sequence[int] | None = None, slots: Tensor | None = None) -> Tensor:
        """States (B, T, D) for training, as ``forward``.

        Those of padded rows are by the model's own attention, those of rows end to end by ours.

        Raises:
            ModelError: rows end to end, and the model's layout is "padded", or it wants dropout in its attention.
        """
        if lengths is None:
            self.use_own_attention()
        elif self.layout != "packed":
            raise ModelError(f"rows must be padded to train {type(self.model).__name__}, got rows laid end to end")
        return self.forward(ids, lengths, slots=slots)

    def use_own_attention(self) -> None:
        """Give the model back the attention that it came with, until the next ``states``."""
        use_attention(self.model, self._own)

    def prepare(self) -> Fit:
        """Try the model out, once for a device and dtype, and switch it to the attention that serves there.

        Raises:
            ModelError: its tokens see later ones.
        """
        weight = self._embeddings
        key = (weight.device, weight.dtype)
        if key not in self._fits:
            with load_lock():
                if key not in self._fits:
                    self.use_own_attention()
                    rows, last = self.probe_rows(), self.readout.layers[-1]
                    self._fits[key] = fit_model(self.model, last, self.forward, rows, self._wanted)
        fit = self._fits[key]
        use_attention(self.model, fit.attention.name)
        return fit

    def probe_rows(self) -> ProbeRows:
        """The rows that the model is tried out on."""
        return ProbeRows.of(self._probe_ids, self.vocabulary, self.device, self.dtype)

    def _pass(
        self, ids: Tensor, lengths: Sequence[int] | None, shared: int, prefix: Prefix | None
    ) -> Callable[[], Tensor]:
        """One pass of the model, to be called; it gives the model's own output (B, T, D)."""
        arguments = {}
        if lengths is not None:
            arguments = packing_arguments(lengths, ids.device, shared, ids.shape[1], prefix, self.sliding_window)
        return lambda: self.model(input_ids=ids, use_cache=False, **arguments).last_hidden_state

    def __setstate__(self, state: dict[str, Any]) -> None:
        register_attention()  # in a new process transformers does not know it yet
        self.__dict__.update(state)
