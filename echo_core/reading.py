"""The half of an encoder that lets people look into it.

Tokens, the words that a vector reads as, and why a document was
found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from importlib.resources import files

import numpy as np
from torch import Tensor

from echo_core.assembly import Engine, build_pipelines
from echo_core.config import ROLES, EchoConfig
from echo_core.errors import check_choice, check_integer
from echo_core.methods.embed_filter import read_head
from echo_core.methods.explanation import Explanation, explain
from echo_core.methods.finish import Vectors, raw_config
from echo_core.methods.key_tokens import Word, merge_tokens, top_tokens
from echo_core.pipeline import Pipeline
from echo_core.text.inputs import Variables, check_text

TOKENS_A_WORD = 6  # aligned tokens that are looked through for each word asked for, as many are variants of others


def sample_texts() -> list[str]:
    """Sentences on all kinds of subjects: their mean vector is what every text's vector has besides its own words."""
    return (files("echo_core") / "methods" / "sample.txt").read_text(encoding="utf-8").splitlines()


class Reading:
    """What an encoder tells about itself; ``EchoEncoder`` is one."""

    config: EchoConfig
    _engine: Engine
    _pipelines: Mapping[str, Pipeline]

    def explain_tokens(
        self, text: str, role: str = "document", *, instruction: str | None = None, variables: Variables | None = None
    ) -> str:
        """The tokens that the model sees for a text, parted by "|", the pooled ones inside [[ ]]; one line a window."""
        token = self._engine.tokenizer.token
        rows = self._pipeline(role).rows(check_text(text, 0), instruction, variables)
        return "\n".join(row.marked([repr(token(int(i)))[1:-1] for i in row.ids]) for row in rows)

    def words(
        self,
        texts: Iterable[str],
        k: int = 12,
        role: str = "document",
        *,
        instruction: str | None = None,
        variables: Variables | None = None,
        merged: bool = True,
    ) -> list[list[Word]]:
        """For each text the words that its vector reads as through the model's LM head, heaviest first.

        Args:
            texts: N texts.
            k: words of each; fewer where the vector reads as fewer.
            role: the template that they are said with.
            instruction: value of ``{instruction}``, where the template has it.
            variables: values of its further variables.
            merged: variants in case and number are one word, and pieces of words are left out; False: tokens as they
                are.

        Raises:
            ModelError: the checkpoint has no LM head.
            ConfigError: an unknown role, or ``k`` below 1.
        """
        check_integer("k", k, 1)
        states = self._raw_pipelines[self._checked(role)].encode(texts, instruction, variables)
        return self._read(states - self._sample_means[role], k, merged)

    def explain(self, query: str, document: str, *, instruction: str | None = None, k: int = 12) -> Explanation:
        """Why a document was found: each token's exact share of the score, and the words that both vectors read as.

        Args:
            query: said with the query template.
            document: said with the document template.
            instruction: value of ``{instruction}``, where a template has it.
            k: words of each.

        Raises:
            EmptyTextError: a blank text.
            ConfigError: a template whose pooled region does not begin with {text}.
            ModelError: the checkpoint has no LM head.
        """
        texts = {"query": check_text(query, 0), "document": check_text(document, 0)}
        given = {role: instruction if self._needs_instruction(role) else None for role in ROLES}
        said = {role: self._pipelines[role].say(texts[role], given[role], None) for role in ROLES}
        read = {role: self.words([texts[role]], k, role, instruction=given[role])[0] for role in ROLES}
        return explain(said["query"], said["document"], read["query"], read["document"])

    def _read(self, vectors: Vectors, k: int, merged: bool) -> list[list[Word]]:
        count = min(len(self._head), k * TOKENS_A_WORD if merged else k)
        ids, scores = top_tokens(vectors, self._head, count)
        token = self._engine.tokenizer.token
        found = [([token(i) for i in row], weights) for row, weights in zip(ids.tolist(), scores.tolist(), strict=True)]
        if merged:
            return [merge_tokens(tokens, weights)[:k] for tokens, weights in found]
        return [[Word(t, w, (t,)) for t, w in zip(tokens, weights, strict=True)] for tokens, weights in found]

    def _needs_instruction(self, role: str) -> bool:
        return "instruction" in self._pipelines[role].prompts.template.variables

    def _checked(self, role: str) -> str:
        check_choice("role", role, ROLES)
        return role

    def _pipeline(self, role: str) -> Pipeline:
        return self._pipelines[self._checked(role)]

    @cached_property
    def _raw_pipelines(self) -> Mapping[str, Pipeline]:
        return build_pipelines(self._engine, raw_config(self.config))

    @cached_property
    def _head(self) -> Tensor:
        return read_head(self._engine.folder, self._engine.runtime.trust_remote_code)

    @cached_property
    def _sample_means(self) -> dict[str, Vectors]:
        """The mean state (D,) of ``sample_texts`` said with each role's template."""
        return {role: self._mean_of(pipeline) for role, pipeline in self._raw_pipelines.items()}

    def _mean_of(self, pipeline: Pipeline) -> Vectors:
        texts = sample_texts()
        names = pipeline.prompts.template.variables - {"text"}
        fillers = {name: " " for name in names}  # what a call would say there is not known here
        instruction = fillers.pop("instruction", None) if self.config.instruction is None else None
        fillers.pop("instruction", None)
        return np.asarray(pipeline.encode(texts, instruction, fillers or None).mean(axis=0))
