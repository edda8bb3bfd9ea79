"""Search sample documents with a SentenceTransformer that says each text twice.

    python examples/sentence_transformers_encode.py
    python examples/sentence_transformers_encode.py HuggingFaceTB/SmolLM2-135M    # any causal model, by name or folder

Runs offline with the embedded default model.
"""

import json
import sys
from pathlib import Path

from echo_sentence_transformers import EchoSentenceTransformer

DATA = Path(__file__).resolve().parent / "data"
SHOWN = (0, 4, 12, 20, 28, 36)  # of the sample questions


def main() -> None:
    """Encode documents and questions, print each question's nearest documents and how many of all come first."""
    model = EchoSentenceTransformer(sys.argv[1] if len(sys.argv) > 1 else None)
    files = sorted((DATA / "documents").glob("*.md"))
    questions = [json.loads(line) for line in (DATA / "questions.jsonl").read_text(encoding="utf-8").splitlines()]

    documents = model.encode_document([path.read_text(encoding="utf-8") for path in files])
    queries = model.encode_query([question["question"] for question in questions])
    similarities = model.similarity(queries, documents)  # (questions, documents), cosine

    for number in SHOWN:
        print(questions[number]["question"])
        scores, places = similarities[number].topk(3)
        for score, place in zip(scores.tolist(), places.tolist(), strict=True):
            mark = "  <- has the answer" if files[place].name == questions[number]["document"] else ""
            print(f"  {score:.3f}  {files[place].stem}{mark}")
    found = sum(
        files[place].name == question["document"]
        for place, question in zip(similarities.argmax(1).tolist(), questions, strict=True)
    )
    print(f"\n{len(files)} documents, {documents.shape[1]} numbers each")
    print(f"{found} of {len(questions)} questions have their answer in the first place")


if __name__ == "__main__":
    main()
