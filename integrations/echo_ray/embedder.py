"""The stage: batches of a dataset in, the same rows with their vectors out; an object lives in each actor."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import echo_core
from echo_core import ConfigError, EchoConfig, Runtime
from echo_core.config import ROLES, checked_runtime
from echo_core.errors import EchoError, TextError, check_choice, check_integer
from echo_core.identity.presets import config_of
from echo_core.process.forks import load_lock
from echo_ray.columns import Columns, Rows, read_rows

ON_ERROR = ("raise", "column")
DTYPES: Mapping[str, tuple[type[np.floating[Any]], pa.DataType]] = {
    "float32": (np.float32, pa.float32()),
    "float16": (np.float16, pa.float16()),
}


class EchoBatchEmbedder:
    """A callable class for ``Dataset.map_batches``: it loads the model once, and adds four columns to each batch.

    ``id``, made from the content; ``vector``, a fixed-size list; ``fingerprint``, of the space that the vector is in;
    and with ``on_error="column"`` an ``error``, null where there is none.
    """

    def __init__(
        self,
        config: EchoConfig | str | os.PathLike[str] | None = None,
        runtime: Runtime | None = None,
        columns: Columns | None = None,
        *,
        role: str = "document",
        vector_dtype: str = "float32",
        on_error: str = "raise",
        threads: int | None = None,
    ) -> None:
        """Check the options and load the model.

        Args:
            config: a whole EchoConfig, a model's name, folder or file that every node can reach, or None for the
                embedded default model.
            runtime: how vectors are computed; its progress bar stays off.
            columns: what the dataset's columns are called.
            role: that all rows have, unless a column says it for each.
            vector_dtype: of the vector's numbers, "float32" or "float16".
            on_error: "raise" ends the job at a text that cannot be embedded; "column" says so in the row's error.
            threads: of torch in this process; None: Ray's choice.

        Raises:
            ConfigError: an option is wrong.
            ModelError: there is no such model.
        """
        self.config = config_of(config)
        self.columns = columns or Columns()
        check_options(self.config, self.columns, role, vector_dtype, on_error)
        self._role, self._dtype, self._on_error = role, vector_dtype, on_error
        if threads is not None:
            check_integer("threads", threads, 1)
            with load_lock():
                import torch

            torch.set_num_threads(threads)
        self._encoder = echo_core.shared_encoder(self.config, replace(checked_runtime(runtime), progress=False))

    def __call__(self, batch: Any) -> pa.Table:
        """The batch with the added columns, in the same order.

        Args:
            batch: N rows in any of Ray's formats: numpy arrays by column, a pandas or an Arrow table.

        Raises:
            ConfigError: a column is missing or is there already.
            EchoError: a row that cannot be embedded, and ``on_error="raise"``; names its text by its id.
        """
        table = as_table(batch)
        self.columns.check(table.column_names)
        rows = read_rows(table, self.columns, self._role, self.config.empty)
        ids = [rows.id_of(i) for i in range(len(rows.texts))]  # before the model says what else is wrong
        self._raise_first(rows, ids)
        vectors = np.zeros((len(rows.texts), self._encoder.dimension), dtype=np.float32)
        for role in ROLES:
            self._embed(rows, role, vectors)
        self._raise_first(rows, ids)
        return self._with_columns(table, rows, ids, vectors)

    def _embed(self, rows: Rows, role: str, vectors: NDArray[np.float32]) -> None:
        """Fill in the vectors of a role's rows; a row that cannot be said gets an error, and the others go on."""
        encode = {"document": self._encoder.encode_documents, "query": self._encoder.encode_queries}[role]
        checked = False
        while good := rows.good(role):
            texts, variables = _said(rows, good)
            try:
                vectors[good] = encode(texts, **variables)
                return
            except TextError as error:
                rows.errors[good[error.index]] = error.problem
                if not checked and self._on_error == "column":
                    checked = True
                    self._find_others(rows, role, good[error.index] + 1)
                elif self._on_error == "raise":
                    return

    def _find_others(self, rows: Rows, role: str, start: int) -> None:
        """Mark every further row whose text cannot be said, each tokenised once, and nothing run."""
        while good := [i for i in rows.good(role) if i >= start]:
            texts, variables = _said(rows, good)
            try:
                self._encoder.count_tokens(texts, role, **variables)
                return
            except TextError as error:
                rows.errors[good[error.index]] = error.problem
                start = good[error.index] + 1

    def _raise_first(self, rows: Rows, ids: Sequence[str | None]) -> None:
        place = next((i for i, error in enumerate(rows.errors) if error is not None), None)
        if place is not None and self._on_error == "raise":
            which = f"the text with id {ids[place]}" if ids[place] else f"row {place} of a batch of {len(ids)}"
            raise EchoError(f"{which}: {rows.errors[place]}; on_error='column' puts this into a column and goes on")

    def _with_columns(
        self, table: pa.Table, rows: Rows, ids: Sequence[str | None], vectors: NDArray[np.float32]
    ) -> pa.Table:
        columns, bad = self.columns, np.array([error is not None for error in rows.errors], dtype=bool)
        added = {
            columns.id: pa.array(ids, pa.string()),
            columns.vector: as_column(vectors, self._dtype, bad),
            columns.fingerprint: pa.array([self._encoder.fingerprint] * len(ids), pa.string()),
        }
        if self._on_error == "column":
            added[columns.error] = pa.array(rows.errors, pa.string())
        for name, column in added.items():
            table = table.append_column(name, column)
        return table


def check_options(
    config: EchoConfig, columns: Columns, role: str = "document", vector_dtype: str = "float32", on_error: str = "raise"
) -> None:
    """Return if the options are what they may be, and the columns give the templates' variables their values.

    Raises:
        ConfigError: they are not; or a variable has no column, or a column no variable.
    """
    if not isinstance(columns, Columns):
        raise ConfigError(f"columns must be Columns, got {columns!r}; write Columns(text={str(columns)!r}), say")
    check_choice("role", role, ROLES)
    check_choice("vector_dtype", vector_dtype, DTYPES)
    check_choice("on_error", on_error, ON_ERROR)
    needed = config.template_variables() - {"text"}
    optional = {"instruction"} if config.instruction is not None else set()
    wrong = sorted((needed - optional - set(columns.variables)) | (set(columns.variables) - needed))
    if wrong:
        rule = f"variables of Columns must be the templates', {sorted(needed)}, got {list(columns.variables)}"
        raise ConfigError(f"{rule}; see {wrong[0]!r}")


def as_table(batch: Any) -> pa.Table:
    """A batch as an Arrow table, in whichever format Ray gave it."""
    if isinstance(batch, pa.Table):
        return batch
    from ray.data.block import BlockAccessor

    return BlockAccessor.for_block(BlockAccessor.batch_to_block(batch)).to_arrow()


def as_column(vectors: NDArray[np.float32], dtype: str, bad: NDArray[np.bool_]) -> pa.Array:
    """N vectors (N, D) as a fixed-size list column, null where ``bad``.

    Raises:
        ConfigError: a number that "float16" cannot hold; vectors without unit length need float32.
    """
    kind, arrow = DTYPES[dtype]
    numbers = vectors.astype(kind)
    if not np.isfinite(numbers).all():
        raise ConfigError("vector_dtype must hold the vectors, got 'float16', which ends at 65504; use 'float32'")
    flat = pa.array(numbers.reshape(-1), arrow)
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1], mask=pa.array(bad))


def _said(rows: Rows, places: Sequence[int]) -> tuple[list[str], dict[str, Any]]:
    """The texts at these places, and the arguments that give the template's variables their values."""
    values = {name: [column[i] for i in places] for name, column in rows.variables.items()}
    return [rows.texts[i] for i in places], {"variables": values or None}
