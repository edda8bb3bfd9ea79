"""The half of an encoder that tells why a document was found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from echo_core.config import ROLES
from echo_core.engine.pooling import POOLERS
from echo_core.methods.explanation import Explanation, Said, explain, finish_parts, pooled_strings
from echo_core.methods.share_matrix import check_target, plot_shares
from echo_core.pipeline.stages import Pipeline
from echo_core.pipeline.words import Reading, rows_of
from echo_core.text.casing import as_said
from echo_core.text.inputs import named_text, said_texts


class Explaining(Reading):
    """Scores as sums over tokens; ``EchoEncoder`` is one."""

    def explain(
        self,
        query: str,
        document: str,
        *,
        instruction: str | None = None,
        variables: Mapping[str, str] | None = None,
        k: int = 12,
    ) -> Explanation:
        """Why a document was found: each token's exact share of the score, and the words that both vectors read as.

        Args:
            query: said with the query template.
            document: said with the document template; where its windows overlap, their tokens have a share in each.
            instruction: value of ``{instruction}``, for the templates that have it; refused where none has.
            variables: values of further variables, likewise.
            k: words of each.

        Raises:
            EmptyTextError: a blank text.
            VariableError: a value is missing, or no template has a place for it.
            ConfigError: a template whose pooled region does not begin with {text}.
            ModelError: the checkpoint has no LM head.
        """
        texts = {"query": named_text(query, "query", 0), "document": named_text(document, "document", 1)}
        given = {role: self._taken(role, instruction, variables) for role in ROLES}
        token, pipelines = self._engine.tokenizer.token, self._pipelines
        said = {role: _said(pipelines[role], texts[role], token, **given[role]) for role in ROLES}
        read = {role: self.words([texts[role]], k, role, **given[role])[0] for role in ROLES}
        return explain(said["query"], said["document"], read["query"], read["document"])

    def explain_all(
        self,
        query: str,
        documents: Sequence[str],
        *,
        instruction: str | None = None,
        variables: Mapping[str, str] | None = None,
        k: int = 12,
        plot: Any = None,
    ) -> list[Explanation]:
        """``explain`` of one query with each of several documents, with a picture of all if it is asked for.

        Args:
            query: said with the query template.
            documents: each said with the document template; a wrong one is named by its index, before any is run.
            instruction: value of ``{instruction}``, where a template has it.
            variables: values of further variables.
            k: words of each.
            plot: a file to draw a matrix into, or Axes of matplotlib, see ``methods/share_matrix.py``; None: neither.

        Raises:
            ConfigError: ``plot`` is nothing that can be drawn into, or there is no document to draw.
            Exception: what ``explain`` raises.
        """
        passages = said_texts(documents)
        check_target(plot, len(passages))
        for role, texts in (("query", [named_text(query, "query", 0)]), ("document", passages)):
            self.count_tokens(texts, role, **self._taken(role, instruction, variables))
        found = [
            self.explain(query, document, instruction=instruction, variables=variables, k=k) for document in passages
        ]
        if plot is not None:
            plot_shares(found, passages, plot)
        return found

    def _taken(self, role: str, instruction: str | None, variables: Mapping[str, str] | None) -> dict[str, Any]:
        """What of a call's values a role's template takes; one that no template has a place for is refused by all."""
        names = {each: self._pipelines[each].prompts.template.variables for each in ROLES}

        def takes(name: str) -> bool:
            return name in names[role] or not any(name in needed for needed in names.values())

        own = {k: v for k, v in variables.items() if takes(k)} if isinstance(variables, Mapping) else variables
        return {"instruction": instruction if takes("instruction") else None, "variables": own}


def _said(
    pipeline: Pipeline,
    text: str,
    token: Callable[[int], str],
    instruction: str | None,
    variables: Mapping[str, str] | None,
) -> Said:
    """A text's pooled tokens, and each one's part of its vector."""
    rows, config = rows_of(pipeline, text, instruction, variables), pipeline.config
    lengths = np.array([row.spans[0].end - row.spans[0].start for row in rows])
    states = pipeline.scheduler.submit([row.token_by_token() for row in rows]).result().numpy()
    pool = POOLERS[config.pooling]
    weights = [pool(np.arange(1, n + 1), np.full(n, n)) * n for n in lengths.tolist()]  # a window counts by its tokens
    parts = states * (np.concatenate(weights) / lengths.sum())[:, None].astype(np.float32)
    strings = pooled_strings(as_said(text, config.caps), pipeline.prompts.pooled_tokens(text), rows, token)
    return Said(tuple(strings), finish_parts(parts, config, pipeline.basis, pipeline.role))
