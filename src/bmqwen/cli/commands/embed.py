"""`bmqwen embed`."""

import json as json_text
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bmqwen.cli import options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bmqwen.engine import Engine

DEFAULT_MODEL = "qwen3-embedding-0.6b"


@options.grouped(precision=options.precision)
def embed(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help=f"Embedding model: short name, hub id, folder, GGUF file or bundle; default: {DEFAULT_MODEL}.",
        ),
    ] = DEFAULT_MODEL,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE...",
            help='Texts: each line is one, or in a *.jsonl file its "text"; default: the lines of stdin.',
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("-t", "--text", metavar="TEXT", help="Text to embed, in place of files; repeatable."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="File to write: a NumPy array if its name ends in .npy, else JSON lines; default: JSON lines on "
            "stdout.",
        ),
    ] = None,
    query: Annotated[
        bool,
        typer.Option("--query", help="Embed queries: the model's own instruction goes before each text."),
    ] = False,
    instruction: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Embed queries with this instruction, one sentence on the task."),
    ] = None,
    dimensions: Annotated[
        int | None,
        typer.Option(
            min=1, help="Keep the first N numbers of each embedding, scaled to length 1; default: all."
        ),
    ] = None,
    engine: options.Engine = "auto",
    *,
    precision: "options.PrecisionOptions",
    adapter: options.Adapter = None,
    device: options.Device = "0",
    threads: options.Threads = None,
    context: options.Context = None,
    offline: options.Offline = False,
    json: options.Json = False,
) -> None:
    """Turn texts into embeddings: vectors of length 1, whose dot product says how close two texts are in meaning."""
    from bmqwen.cli.interrupts import left_by_force
    from bmqwen.cli.terminal import argument_text, print_json, progress_bar, put
    from bmqwen.engine import load
    from bmqwen.errors import InputError
    from bmqwen.generate.retrieval import check_dimensions
    from bmqwen.util.progress import counting
    from bmqwen.util.storage import write_file

    if text and files:
        raise InputError("give either --text or files")
    texts = [("--text", argument_text(one, "--text")) for one in text] if text else list(_texts(files or ()))
    if not texts:
        raise InputError("there is no text to embed: give lines on stdin, files, or --text")
    if json and output is not None:
        raise InputError("--json prints one document on stdout: leave --output out")
    if instruction is not None:
        instruction = argument_text(instruction, "--instruction")
    chosen = options.device_ids(device)
    as_array = output is not None and output.suffix == ".npy"
    with progress_bar(sizes=False) as bar:
        with left_by_force():
            loaded = load(
                model,
                engine,
                precision=precision,
                adapter=adapter,
                threads=threads,
                context_length=context,
                offline=offline,
                progress=bar,
                device=chosen,
                task="embedding",
            )
        with loaded:
            check_dimensions(dimensions, loaded.bundle.config.width)
            advance = counting(bar, f"embedding with {loaded.model}", len(texts))
            found, lines, tokens = [], [], 0
            for place, (source, one) in enumerate(texts):
                vector, count = _embed(loaded, one, source, query, instruction, dimensions)
                tokens += count
                advance(1)
                if as_array or json:
                    found.append(vector)
                    continue
                line = json_text.dumps({"index": place, "tokens": count, "embedding": vector.tolist()}) + "\n"
                if output is None:
                    put(line)
                else:
                    lines.append(line)
    if as_array or lines:
        assert output is not None
        write_file(output, _array(found) if as_array else "".join(lines).encode())
    if json:
        print_json(
            {
                "model": loaded.model,
                "engine": loaded.runtime.name,
                "dimensions": len(found[0]),
                "tokens": tokens,
                "embeddings": [vector.tolist() for vector in found],
            }
        )


def _embed(
    loaded: "Engine", text: str, source: str, query: bool, instruction: str | None, dimensions: int | None
) -> "tuple[NDArray[np.float32], int]":
    """Return a text's embedding and how many tokens it has. Raises InputError, which names the text's place."""
    from bmqwen.errors import ContextLengthError, InputError
    from bmqwen.generate.retrieval import EmbeddingPrompts, embedding

    try:
        ids = loaded.embedding_prompts.prompt(text, query=query, instruction=instruction)
        return embedding(loaded.complete(ids, EmbeddingPrompts.params), dimensions), len(ids)
    except ContextLengthError as error:
        raise InputError(
            f"{source} has {error.got:,} tokens, but only {error.limit:,} fit into the context: split the text"
        ) from None
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _texts(files: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Yield where each text stands, and the text. Raises InputError for files and lines that are no texts."""
    from bmqwen.cli.terminal import read_file, read_stdin
    from bmqwen.errors import InputError

    for path in files or (None,):
        content = read_stdin() if path is None else read_file(path)
        name = "stdin" if path is None else str(path)
        # Not `splitlines`, which takes other characters for ends of lines as well.
        for number, line in enumerate(content.removesuffix("\n").split("\n") if content else (), 1):
            place = f"{name}, line {number}"
            if not line.strip():
                raise InputError(f"{place} is empty: each line is one text")
            yield place, _text_of(line, place) if path is not None and path.suffix == ".jsonl" else line


def _text_of(line: str, place: str) -> str:
    from bmqwen.errors import InputError

    try:
        value: Any = json_text.loads(line)
    except (ValueError, RecursionError):
        value = None
    text = value.get("text") if isinstance(value, dict) else value
    if not isinstance(text, str) or not text.strip():
        raise InputError(f'{place} is neither a JSON string nor an object with a "text"')
    return text


def _array(vectors: "list[NDArray[np.float32]]") -> bytes:
    """Return a NumPy file of float32 [texts, dimensions]."""
    import io

    import numpy as np

    file = io.BytesIO()
    np.save(file, np.stack(vectors))
    return file.getvalue()
