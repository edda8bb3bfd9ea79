"""Stage 3: echo fine-tuning. The text is said twice.

The mean over its second saying is trained toward a teacher's vector.

    python echo_tuning.py path/to/data --work default_model_work --output my_model

First, a table of token vectors is fitted whose plain mean over a text comes near the teacher's vector, and over a query
near its passage's. It is turned (which changes no dot product between vectors) toward the language model's token
embeddings and added to them, so that training starts near a usable embedding; the layers then learn what a mean of
words cannot know. A share of language modelling on the first saying is mixed in. What is measured and exported is a
mean of the weights before and after. Stopped at any moment, the same command goes on from the last checkpoint.
"""

from __future__ import annotations

import itertools
import math
import random
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from recipe import (
    RECIPE,
    Recipe,
    Trainer,
    arguments,
    candidate_loss,
    data_folder,
    excluded,
    files_of,
    plain,
    plot_curves,
    write_checkpoint,
)
from scipy.stats import spearmanr
from teacher import pairs, read_texts
from torch import Tensor
from torch.nn.functional import cross_entropy, embedding_bag, normalize
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

CHECKPOINT_SECONDS = 180
MEASURE_SECONDS = 600


@dataclass(frozen=True)
class Prompt:
    """The template's token ids around the two sayings."""

    before: list[int]
    between: list[int]

    def row(self, saying: list[int]) -> list[int]:
        """The whole row of a text."""
        return [*self.before, *saying, *self.between, *saying]

    def start(self, length: int) -> int:
        """Where the second saying begins if a saying has so many tokens."""
        return len(self.before) + length + len(self.between)


@dataclass(frozen=True)
class Corpus:
    """Texts as token ids, their teacher's vectors, and who belongs to whom.

    Queries and the passages that answer them.
    """

    kinds: list[str]
    sayings: list[list[int]]
    vectors: Tensor
    partners: list[list[int]]
    training: list[int]
    held_out: list[int]
    queries: list[list[int]]
    passages: list[list[int]]


# ---------------------------------------------------------------- texts


def saying_ids(tokenizer: PreTrainedTokenizerFast, texts: list[str], limit: int) -> list[list[int]]:
    """Ids of the texts as they stand in the prompt: after a space, cut at the limit."""
    if not texts:
        return []
    encoded = tokenizer([f" {text}" for text in texts], add_special_tokens=False, split_special_tokens=True)
    return [ids[:limit] for ids in encoded["input_ids"]]


def read_prompt(tokenizer: PreTrainedTokenizerFast, template: str) -> Prompt:
    """Tokenises the template's literals; their trailing white space goes to the text that follows."""
    first, second, _ = template.replace("[[", "").replace("]]", "").split("{text}")
    between = tokenizer(second.rstrip(), add_special_tokens=False)["input_ids"]
    return Prompt(tokenizer(first.rstrip())["input_ids"], between)


def is_held_out(group: str, recipe: Recipe) -> bool:
    """Whether a group is measured on, and never trained on."""
    return zlib.crc32(group.encode()) % 10_000 < recipe.held_out_share * 10_000


def read_corpus(
    work: Path, answers: list[tuple[str, str]], tokenizer: PreTrainedTokenizerFast, recipe: Recipe
) -> Corpus:
    """The texts that have a teacher's vector by now, whole groups of them held out.

    ``answers`` are queries and their passages to train on.
    """
    parts = [np.load(path) for path in sorted((work / "teacher").glob("part-????.npy"))]
    vectors = torch.from_numpy(np.concatenate(parts)).float()
    texts = read_texts(work / "texts.jsonl")[: len(vectors)]
    groups: dict[str, list[int]] = defaultdict(list)
    for index, text in enumerate(texts):
        groups[text["group"]].append(index)
    partners = [[i for i in groups[text["group"]] if i != index] for index, text in enumerate(texts)]
    held = [is_held_out(text["group"], recipe) for text in texts]
    return Corpus(
        [text["kind"] for text in texts],
        saying_ids(tokenizer, [text["text"] for text in texts], recipe.max_tokens),
        vectors,
        partners,
        [index for index, out in enumerate(held) if not out],
        [index for index, out in enumerate(held) if out],
        saying_ids(tokenizer, [query for query, _ in answers], recipe.pair_tokens),
        saying_ids(tokenizer, [passage for _, passage in answers], recipe.pair_tokens),
    )


def read_answers(data: str, exclude: list[Path], recipe: Recipe) -> list[tuple[str, str]]:
    """Queries and their passages, without what is held out or excluded."""
    banned = excluded(exclude)
    queries, passages = pairs(files_of(data_folder(data)), recipe)
    kept = [
        (query["text"], passage["text"])
        for query, passage in zip(queries, passages, strict=True)
        if not is_held_out(query["group"], recipe)
    ]
    return [texts for texts in kept if all(text.strip() and plain(text) not in banned for text in texts)]


# ---------------------------------------------------------------- token vectors


def distillation_loss(found: Tensor, wanted: Tensor, bank: Tensor, recipe: Recipe) -> Tensor:
    """Cosine to the teacher's vector, and the teacher's ranking of a bank of other texts' vectors."""
    cosine = 1 - (found * wanted).sum(1).mean()
    ranking = (wanted @ bank.T / recipe.temperature).softmax(1)
    return cosine + recipe.bank_weight * cross_entropy(found @ bank.T / recipe.temperature, ranking)


def pair_loss(queries: Tensor, passages: Tensor, recipe: Recipe) -> Tensor:
    """Contrast: of these passages, the n-th belongs to the n-th query; there may be more passages than queries."""
    return cross_entropy(queries @ passages.T / recipe.temperature, torch.arange(len(queries)))


def token_vectors(corpus: Corpus, vocabulary: Tensor, frequency: Tensor, recipe: Recipe) -> Tensor:
    """A vector a token, so that the normalised mean over a text's tokens comes near the teacher's vector.

    The mean over a query's tokens comes near its passage's vector.

    Starts from the teacher's vectors of the tokens as texts, frequent ones weaker.
    """
    weight = 1e-3 / (1e-3 + frequency)
    table = torch.nn.Parameter((vocabulary - vocabulary.mean(0)) * weight[:, None])
    optimiser = torch.optim.Adam([table], lr=recipe.table_rate)
    steps = recipe.table_epochs * (len(corpus.training) // recipe.table_batch)
    generator = torch.Generator().manual_seed(recipe.seed)
    for step in tqdm(range(steps), desc="token vectors", mininterval=10):
        chosen = torch.randint(len(corpus.training), (recipe.table_batch + recipe.table_bank,), generator=generator)
        indices = [corpus.training[i] for i in chosen.tolist()]
        batch, bank = indices[: recipe.table_batch], corpus.vectors[indices[recipe.table_batch :]]
        loss = distillation_loss(
            mean_of_table(table, [corpus.sayings[i] for i in batch]), corpus.vectors[batch], bank, recipe
        )
        if corpus.queries:
            pool = torch.randint(len(corpus.queries), (recipe.table_pairs,), generator=generator).tolist()
            queries, passages = (
                mean_of_table(table, [said[i] for i in pool]) for said in (corpus.queries, corpus.passages)
            )
            loss = loss + recipe.pair_weight * pair_loss(queries, passages, recipe)
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = recipe.table_rate * (1 - step / steps)
        optimiser.step()
        optimiser.zero_grad()
    return table.detach()


def mean_of_table(table: Tensor, sayings: list[list[int]]) -> Tensor:
    """The mean of the table's rows over each text, brought to unit length."""
    flat = torch.tensor([token for saying in sayings for token in saying])
    offsets = torch.tensor([0, *(len(saying) for saying in sayings[:-1])]).cumsum(0)
    return normalize(embedding_bag(flat, table, offsets, mode="mean"), dim=1)


def rotation_toward(table: Tensor, embeddings: Tensor, frequency: Tensor, vectors: Tensor) -> Tensor:
    """The orthogonal map that brings the token vectors nearest to the model's embeddings (Procrustes).

    A reflection then turns the direction in which the teacher's vectors differ least into dimension 0, which the
    carrier takes.
    """
    weight = frequency.sqrt()[:, None]
    left, _, right = torch.linalg.svd((table * weight).T @ (embeddings * weight))
    rotation = left @ right
    least = torch.linalg.eigh(vectors.T @ vectors).eigenvectors[:, 0] @ rotation
    mirror = least - torch.eye(len(least))[0]
    mirror = mirror / mirror.norm()
    return rotation - 2 * (rotation @ mirror)[:, None] * mirror


@torch.no_grad()
def make_room(trainer: Trainer, prompt: Prompt, corpus: Corpus, recipe: Recipe) -> None:
    """Shrinks what the language model's embeddings and layers write to the stream to a share of the token vectors'.

    Dimension 0 is cleared: no layer writes to it, no norm passes it on; the layers' norms make up for what the constant
    in it takes from the other dimensions. The final norm shrinks with the token vectors' length, so that the LM head's
    logits stay small.
    """
    sample = padded([prompt.row(corpus.sayings[i]) for i in corpus.training[:64]])
    written: list[Tensor] = []
    hook = trainer.body.layers[-1].register_forward_hook(lambda _, __, out: written.append(out.float()))
    trainer.hidden(sample)
    hook.remove()
    wanted = recipe.language_scale * recipe.table_length
    shrink = wanted / written[0].norm(dim=-1).median()
    loudness = math.hypot(1.0, recipe.carrier)
    trainer.embeddings.mul_(wanted / trainer.embeddings.norm(dim=1).mean())
    for name, master, parameter in zip(trainer.names, trainer.masters, trainer.parameters, strict=True):
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            master.mul_(shrink)
            master[0] = 0.0
        elif "norm" in name:
            master.mul_(recipe.logit_scale / recipe.table_length if name == "norm.weight" else loudness)
            master[0] = 0.0
        parameter.copy_(master)


def fitted_table(corpus: Corpus, frequency: Tensor, work: Path, recipe: Recipe) -> Tensor:
    """The token vectors, fitted once."""
    saved = work / "token_vectors.pt"
    if not saved.exists():
        vocabulary = torch.from_numpy(np.load(work / "teacher" / "vocabulary.npy")).float()
        torch.save(token_vectors(corpus, vocabulary, frequency, recipe), saved)
    return torch.load(saved)


def add_token_vectors(
    trainer: Trainer, prompt: Prompt, corpus: Corpus, table: Tensor, frequency: Tensor, recipe: Recipe
) -> Tensor:
    """Token vectors into the embeddings; returns the rotation, which the teacher's vectors go through too.

    Dimension 0 becomes a constant: a token's length beside it says how much the token counts in the mean.
    """
    rotation = rotation_toward(table, trainer.embeddings.data, frequency, corpus.vectors)
    make_room(trainer, prompt, corpus, recipe)
    with torch.no_grad():
        trainer.embeddings.add_(recipe.table_length / table.norm(dim=1).mean() * table @ rotation)
        trainer.embeddings[:, 0] = recipe.carrier * recipe.table_length
    return rotation


# ---------------------------------------------------------------- batches


def epoch_passes(corpus: Corpus, prompt: Prompt, epoch: int, recipe: Recipe) -> list[list[int]]:
    """Texts of one epoch in passes of like length within a token budget, in random order."""
    pick, shares = random.Random(recipe.seed + epoch), dict(recipe.echo_shares)
    chosen = [i for i in corpus.training if pick.random() < shares[corpus.kinds[i]]]
    pick.shuffle(chosen)
    passes: list[list[int]] = []
    for start in range(0, len(chosen), recipe.echo_window):
        window = sorted(chosen[start : start + recipe.echo_window], key=lambda i: len(corpus.sayings[i]))
        cut = cut_by_tokens([len(prompt.row(corpus.sayings[i])) for i in window], recipe.echo_tokens_per_pass)
        found = [window[a:b] for a, b in cut]
        passes.extend(pick.sample(found, len(found)))
    return passes


def cut_by_tokens(lengths: list[int], budget: int) -> list[tuple[int, int]]:
    """Ranges of ascending lengths whose padded rows stay within the budget."""
    ranges, start = [], 0
    for end, length in enumerate(lengths):
        if end > start and (end + 1 - start) * length > budget:
            ranges.append((start, end))
            start = end
    return [*ranges, (start, len(lengths))]


def padded(rows: list[list[int]]) -> Tensor:
    """Rows as one matrix, filled up at the right, where causal attention never looks."""
    width = max(map(len, rows))
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


def second_saying_mean(states: Tensor, sayings: list[list[int]], prompt: Prompt) -> Tensor:
    """The echo embedding before it is brought to unit length."""
    lengths = torch.tensor([len(saying) for saying in sayings])[:, None]
    starts = torch.tensor([prompt.start(len(saying)) for saying in sayings])[:, None]
    places = torch.arange(states.shape[1])
    inside = ((places >= starts) & (places < starts + lengths)).float()
    return torch.bmm((inside / lengths)[:, None, :], states.float()).squeeze(1)


# ---------------------------------------------------------------- training


def language_loss(
    states: Tensor,
    ids: Tensor,
    sayings: list[list[int]],
    prompt: Prompt,
    embeddings: Tensor,
    frequency: Tensor,
    recipe: Recipe,
) -> Tensor:
    """Next-token loss on the first saying."""
    places = torch.arange(ids.shape[1] - 1)
    first = len(prompt.before) - 1
    ends = torch.tensor([first + len(saying) for saying in sayings])[:, None]
    inside = (places >= first) & (places < ends)
    return candidate_loss(states[:, :-1][inside], ids[:, 1:][inside], embeddings, frequency, recipe.lm_negatives)


class EchoTuning:
    """The model, the texts, and one step of training."""

    def __init__(
        self,
        corpus: Corpus,
        prompt: Prompt,
        trainer: Trainer,
        rotation: Tensor,
        table: Tensor,
        frequency: Tensor,
        recipe: Recipe,
    ) -> None:
        self.corpus, self.prompt, self.trainer, self.recipe = corpus, prompt, trainer, recipe
        self.rotation, self.table, self.frequency = rotation, table @ rotation, frequency

    def embed(self, sayings: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
        """Unit vectors, hidden states and ids of texts."""
        ids = padded([self.prompt.row(saying) for saying in sayings])
        states = self.trainer.hidden(ids)
        return normalize(second_saying_mean(states, sayings, self.prompt), dim=1), states, ids

    def step(self, passes: list[list[int]], scale: float) -> dict[str, float]:
        """One optimiser step: passes of texts, the first of which also models language, and one of queries."""
        losses: dict[str, float] = defaultdict(float)
        pool = random.choices(self.corpus.training, k=self.recipe.bank)
        bank = self.corpus.vectors[pool] @ self.rotation
        for number, indices in enumerate(passes):
            parts = self.losses(indices, bank, language=number == 0)
            self._collect(parts, {"distillation": 1 / len(passes), "language": self.recipe.language_weight}, losses)
        if self.corpus.queries:
            self._collect({"pairs": self.query_loss()}, {"pairs": self.recipe.pair_weight}, losses)
        self.trainer.step(scale)
        return {name: loss / (len(passes) if name == "distillation" else 1) for name, loss in losses.items()}

    def _collect(self, parts: dict[str, Tensor], weights: dict[str, float], losses: dict[str, float]) -> None:
        """The gradients of a pass's weighted losses, and the losses' sums."""
        sum((weights[name] * loss for name, loss in parts.items()), torch.zeros(())).backward()
        self.trainer.collect()
        for name, loss in parts.items():
            losses[name] += loss.item()

    def losses(self, indices: list[int], bank: Tensor, language: bool) -> dict[str, Tensor]:
        """The losses of one pass of texts."""
        sayings = [self.corpus.sayings[i] for i in indices]
        found, states, ids = self.embed(sayings)
        wanted = self.corpus.vectors[indices] @ self.rotation
        parts = {"distillation": distillation_loss(found, wanted, torch.cat([wanted, bank]), self.recipe)}
        if language:
            parts["language"] = language_loss(
                states, ids, sayings, self.prompt, self.trainer.embeddings, self.frequency, self.recipe
            )
        return parts

    def query_loss(self) -> Tensor:
        """Queries said twice, against their passages and others by the token vectors alone.

        Said twice, long texts would cost most of the time.
        """
        pool = random.choices(range(len(self.corpus.queries)), k=self.recipe.table_pairs)
        queries = [self.corpus.queries[i] for i in pool[: self.recipe.echo_queries]]
        return pair_loss(
            self.embed(queries)[0], mean_of_table(self.table, [self.corpus.passages[i] for i in pool]), self.recipe
        )

    @torch.no_grad()
    def vectors(self, sayings: list[list[int]]) -> Tensor:
        """Vectors of any texts, in their order."""
        order = sorted(range(len(sayings)), key=lambda i: len(sayings[i]))
        lengths = [len(self.prompt.row(sayings[i])) for i in order]
        found = [self.embed([sayings[i] for i in order[a:b]])[0] for a, b in cut_by_tokens(lengths, 8192)]
        result = torch.empty(len(sayings), found[0].shape[1])
        result[order] = torch.cat(found)
        return result

    def held_out_measures(self) -> dict[str, float]:
        """Cosine to the teacher, and how often a held-out query finds its own passage first."""
        indices = self.corpus.held_out
        found = self.vectors([self.corpus.sayings[i] for i in indices])
        cosine = (found * (self.corpus.vectors[indices] @ self.rotation)).sum(1).mean()
        measures = {"cosine to teacher": float(cosine)}
        place = {index: row for row, index in enumerate(indices)}
        passages = [i for i in indices if self.corpus.kinds[i] == "passage" and self.corpus.partners[i]]
        if not passages:  # a corpus without pairs
            return measures
        queries = [self.corpus.partners[i][0] for i in passages]
        scores = found[[place[i] for i in queries]] @ found[[place[i] for i in passages]].T
        hits = (scores.argmax(1) == torch.arange(len(passages))).float().mean()
        return {**measures, "own passage first": float(hits)}


def similarity_measure(tuning: EchoTuning, tokenizer: PreTrainedTokenizerFast, path: Path) -> float:
    """Spearman correlation x 100 on a tab-separated file whose fifth to seventh columns are score, sentence.

    Sentence.
    """
    rows = [line.split("\t")[4:7] for line in path.read_text(encoding="utf-8").splitlines() if line.count("\t") >= 6]
    sayings = saying_ids(tokenizer, [row[1] for row in rows] + [row[2] for row in rows], tuning.recipe.max_tokens)
    found = tuning.vectors(sayings)
    cosines = (found[: len(rows)] * found[len(rows) :]).sum(1)
    return 100 * float(spearmanr(cosines.numpy(), [float(row[0]) for row in rows]).statistic)


@dataclass
class Run:
    """Where a run stands, and where it writes."""

    tuning: EchoTuning
    tokenizer: PreTrainedTokenizerFast
    work: Path
    output: Path
    similarity: Path | None
    start: list[Tensor]  # the weights before the first step
    history: list[dict[str, float]]
    tokens: int = 0
    passes_done: int = 0

    @contextmanager
    def exported_weights(self) -> Iterator[None]:
        """Inside, the trainer holds the recipe's mean of the weights before the first step and those of now."""
        trainer = self.tuning.trainer
        now = [weights.detach().clone() for weights in trainer.weights()]
        share = self.tuning.recipe.exported_share
        trainer.put([torch.lerp(first, last, share) for first, last in zip(self.start, now, strict=True)])
        try:
            yield
        finally:
            trainer.put(now)

    def measure(self) -> str:
        """Adds measures of the exported weights to the history's last row."""
        row = self.history[-1]
        with self.exported_weights():
            row.update(self.tuning.held_out_measures())
            if self.similarity:
                row["similarity, development set"] = similarity_measure(self.tuning, self.tokenizer, self.similarity)
        return ", ".join(f"{name} {value:.3f}" for name, value in row.items())

    def save(self) -> None:
        """Checkpoint, curves, and the model itself."""
        state = {
            "trainer": self.tuning.trainer.state(),
            "rotation": self.tuning.rotation,
            "start": self.start,
            "history": self.history,
            "tokens": self.tokens,
            "passes_done": self.passes_done,
        }
        write_checkpoint(self.work / "echo_state.pt", state)
        plot_curves(self.history, self.work / "echo_tuning.png", "Echo fine-tuning")
        with self.exported_weights():
            self.tuning.trainer.save_model(self.output, self.tokenizer)

    def upcoming(self) -> Iterator[list[list[int]]]:
        """The passes of each step from where the run stands, epoch after epoch."""
        count, waiting, left_out = self.tuning.recipe.echo_passes_per_step, [], self.passes_done
        for epoch in itertools.count():
            waiting += epoch_passes(self.tuning.corpus, self.tuning.prompt, epoch, self.tuning.recipe)
            while len(waiting) >= count:
                mine, waiting = waiting[:count], waiting[count:]
                left_out -= count
                if left_out < 0:
                    yield mine

    def size(self, passes: list[list[int]]) -> int:
        """The tokens of a step's rows."""
        prompt, sayings = self.tuning.prompt, self.tuning.corpus.sayings
        return sum(len(prompt.row(sayings[index])) for indices in passes for index in indices)

    def train(self, tokens: int) -> None:
        """Up to so many tokens, from where the run stands."""
        recipe = self.tuning.recipe
        saved = measured = time.monotonic()
        bar = tqdm(total=tokens, initial=self.tokens, unit="tok", unit_scale=True, mininterval=20)
        upcoming = self.upcoming()
        while self.tokens < tokens:
            passes = next(upcoming)
            rising = min(1.0, len(self.history) / recipe.echo_warmup_steps)
            falling = (1 - self.tokens / tokens) / recipe.echo_decay_share
            losses = self.tuning.step(passes, rising * min(1.0, max(0.05, falling)))
            self.history.append({"step": len(self.history), **losses})
            self.tokens += self.size(passes)
            self.passes_done += len(passes)
            bar.update(self.size(passes))
            done, now = self.tokens >= tokens, time.monotonic()
            if done or now - measured > MEASURE_SECONDS:
                bar.write(self.measure())
                measured = time.monotonic()
            if done or now - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = time.monotonic()
        bar.close()


def start(work: Path, output: Path, answers: list[tuple[str, str]], similarity: Path | None, recipe: Recipe) -> Run:
    """The run's last checkpoint, or a new run from the language model."""
    tokenizer = AutoTokenizer.from_pretrained(work / "lm_checkpoint")
    model = AutoModelForCausalLM.from_pretrained(work / "lm_checkpoint", dtype=torch.float32)
    trainer = Trainer(
        model, recipe.echo_muon_rate, recipe.echo_adam_rate, recipe.echo_embedding_rate, frozen=("norm.weight",)
    )
    corpus = read_corpus(work, answers, tokenizer, recipe)
    counts = torch.bincount(torch.tensor([t for s in corpus.sayings for t in s]), minlength=len(trainer.embeddings))
    frequency = (counts + 0.5) / (counts + 0.5).sum()
    table = fitted_table(corpus, frequency, work, recipe)
    prompt = read_prompt(tokenizer, recipe.template)
    checkpoint = work / "echo_state.pt"
    if not checkpoint.exists():
        rotation = add_token_vectors(trainer, prompt, corpus, table, frequency, recipe)
        first = [weights.detach().clone() for weights in trainer.weights()]
        run = Run(
            EchoTuning(corpus, prompt, trainer, rotation, table, frequency, recipe),
            tokenizer,
            work,
            output,
            similarity,
            first,
            [{"step": 0}],
        )
        print(run.measure(), flush=True)
        run.save()
        return run
    state = torch.load(checkpoint)
    trainer.load(state["trainer"])
    tuning = EchoTuning(corpus, prompt, trainer, state["rotation"], table, frequency, recipe)
    return Run(
        tuning,
        tokenizer,
        work,
        output,
        similarity,
        state["start"],
        state["history"],
        state["tokens"],
        state["passes_done"],
    )


def main() -> None:
    """Echo fine-tuning and export."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--output", type=Path, default=Path("default_model"))
    parser.add_argument("--similarity", type=Path, help="development set, tab-separated, to watch; never trained on")
    parser.add_argument("--tokens", type=int, default=RECIPE.echo_tokens)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    answers = read_answers(options.data, options.exclude, RECIPE)
    run = start(options.work, options.output, answers, options.similarity, RECIPE)
    random.seed(RECIPE.seed + run.passes_done)
    run.train(options.tokens)


if __name__ == "__main__":
    main()
