"""Retrieval-augmented answers with LangChain and Chroma: load, split, index, retrieve, answer with sources.

    pip install 'echo-embed[langchain,chroma]' langchain-chroma langchain-text-splitters
    python examples/rag_langchain_chroma.py
    python examples/rag_langchain_chroma.py "What should I do about a burn?" --index my-index
    python examples/rag_langchain_chroma.py --answer-model HuggingFaceTB/SmolLM2-360M-Instruct

A second run with the same --index finds it and adds nothing. Without --answer-model (any causal model: a name or a
folder) the passages alone are printed: the model that comes with echo-embed finds passages but cannot write answers.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path

try:
    from langchain_core.documents import Document
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompt_values import PromptValue
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    from echo_chroma import document_id, open_client
    from langchain_echo import EchoEmbeddings
    from langchain_echo.chroma import EchoChroma
except ImportError as error:
    packages = "'echo-embed[langchain,chroma]' langchain-chroma langchain-text-splitters"
    sys.exit(f"{error}\nThis example needs: pip install {packages}")

DATA = Path(__file__).parent / "data" / "documents"
PROMPT = ChatPromptTemplate.from_template(
    "Answer the question in one or two sentences, from these passages alone. If they do not tell, say so.\n\n"
    "{context}\n\nQuestion: {question}"
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Index, retrieve, answer, print."""
    options = parse(arguments)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        # Opened with another model than it was made with, this raises EmbeddingSpaceMismatch.
        client = open_client(options.index or temporary)
        store = EchoChroma("documents", EchoEmbeddings(model=options.model), client=client)
        added, total = index(store, options.documents)
        print(f"Indexed {added} new passages, {total} in all, in {options.index or 'a temporary folder'}.\n")
        show(build_chain(store, options).invoke({"question": options.question}))


def index(store: EchoChroma, folder: Path) -> tuple[int, int]:
    """(new passages, all passages); each has a hash of its text and file for its id, so that none is embedded twice."""
    files = sorted(folder.glob("*.md"))
    documents = [Document(file.read_text(encoding="utf-8"), metadata={"source": file.name}) for file in files]
    if not documents:
        sys.exit(f"--documents must be a folder with *.md files, got {folder}")
    passages = RecursiveCharacterTextSplitter(chunk_size=400, chunk_overlap=80).split_documents(documents)
    by_id = {document_id(passage.page_content, passage.metadata["source"]): passage for passage in passages}
    stored = set(store.get(list(by_id), include=[])["ids"])
    new = {id_: passage for id_, passage in by_id.items() if id_ not in stored}
    store.add_documents(list(new.values()), ids=list(new))
    return len(new), len(by_id)


def build_chain(store: EchoChroma, options: argparse.Namespace) -> Runnable:
    """{"question"} → the same with "passages" and, if a model is to write one, "answer"."""
    retriever = store.as_retriever(search_kwargs={"k": options.passages})
    chain = RunnablePassthrough.assign(passages=itemgetter("question") | retriever)
    if options.answer_model is None:
        return chain
    answer = RunnableLambda(prompt_values) | PROMPT | local_model(options.answer_model) | StrOutputParser()
    return chain | RunnablePassthrough.assign(answer=answer)


def prompt_values(state: dict) -> dict[str, str]:
    """What PROMPT needs of the chain's state: the question, and the passages with their files."""
    context = "\n\n".join(f"[{passage.metadata['source']}] {passage.page_content}" for passage in state["passages"])
    return {"question": state["question"], "context": context}


def local_model(name: str) -> Runnable:
    """A causal model on this machine as a step of a chain: prompt → text; an instruct model gets its chat template."""
    from transformers import pipeline

    generate = pipeline("text-generation", model=name)

    def write(prompt: PromptValue) -> str:
        text = prompt.to_messages()[0].content
        given = [{"role": "user", "content": text}] if generate.tokenizer.chat_template else f"{text}\nAnswer:"
        return generate(given, max_new_tokens=120, do_sample=False, return_full_text=False)[0]["generated_text"].strip()

    return RunnableLambda(write)


def show(result: dict) -> None:
    """Print the question, the passages, the answer if there is one, and the sources."""
    print(f"Question: {result['question']}\n")
    for number, passage in enumerate(result["passages"], 1):
        print(f"{number}. {passage.metadata['source']}\n   {passage.page_content!r}")
    if "answer" in result:
        print(f"\nAnswer: {result['answer']}")
    print(f"\nSources: {', '.join(dict.fromkeys(passage.metadata['source'] for passage in result['passages']))}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("question", nargs="?", default="How do hive insects stay warm when it snows?")
    parser.add_argument("--documents", type=Path, default=DATA, help="folder of *.md files (default: the example's)")
    parser.add_argument("--index", help="folder that keeps the index (default: a temporary one)")
    parser.add_argument("--model", help="causal model that embeds (default: the one that comes with echo-embed)")
    parser.add_argument("--answer-model", help="causal model that writes the answer (default: none, retrieval alone)")
    parser.add_argument("--passages", type=int, default=3, help="how many to retrieve")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
