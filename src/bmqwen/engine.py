"""A loaded model, ready to talk: what the commands, the server and Python users hold."""

import hashlib
import json
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from bmqwen.artifact.bundle import Bundle
from bmqwen.errors import InputError
from bmqwen.generate.conversation import Conversation
from bmqwen.generate.conversation_cache import ConversationCache
from bmqwen.generate.defaults import default_params
from bmqwen.generate.draft_model import DraftModel, check_pair
from bmqwen.generate.params import Completion, Piece, SamplingParams
from bmqwen.generate.retrieval import EmbeddingPrompts, RerankPrompts, Task, embedding, relevance
from bmqwen.generate.session import Session
from bmqwen.generate.template import ChatTemplate
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.quant.precision import AnyPrecision, Precision, PrecisionOptions
from bmqwen.resolve import resolve_bundle
from bmqwen.runtime import registry
from bmqwen.runtime.base import Runtime
from bmqwen.runtime.registry import EngineName, Options
from bmqwen.util.closing import Closing
from bmqwen.util.progress import Progress, Silent


class Engine(Closing):
    """A runtime with its tokenizer and chat template. Close it, or use it in a `with` statement.

    Attributes:
        bundle: what was loaded.
        runtime: what computes.
        tokenizer: the model's own.
        session: the one KV cache, shared by all conversations of this engine: alternating between them is correct,
            but each then reads its history again, unless there is memory to save it in.
    """

    def __init__(
        self,
        bundle: Bundle,
        runtime: Runtime,
        *,
        tokenizer: Tokenizer | None = None,
        saved_bytes: int = 0,
        drafts: bool = True,
        draft_model: DraftModel | None = None,
        reproducible: bool = False,
    ) -> None:
        """Take `runtime` and `draft_model` over.

        `saved_bytes` of host memory are for conversations that others take the place of. The tokenizer is read from
        the bundle unless it is given; the others are as of a `Batcher`. Raises ConfigError for one that cannot be used.
        """
        self.bundle = bundle
        self.runtime = runtime
        self.tokenizer = tokenizer or Tokenizer.from_folder(bundle.tokenizer_folder)
        self._draft_model = draft_model
        self.session = Session(
            runtime,
            self.tokenizer,
            saved=ConversationCache(saved_bytes),
            drafts=drafts,
            guesser=draft_model,
            reproducible=reproducible,
        )

    @cached_property
    def params(self) -> SamplingParams:
        """How it answers where nobody says otherwise, as its publisher recommends, read on first use.

        Raises ConfigError for a generation_config.json that cannot be used.
        """
        return params_of(self.bundle)

    @cached_property
    def template(self) -> ChatTemplate:
        """The model's chat template, read on first use. Raises ConfigError if it has none that can be used."""
        return ChatTemplate.from_folder(self.bundle.tokenizer_folder)

    @cached_property
    def embedding_prompts(self) -> EmbeddingPrompts:
        """How an embedding model is asked. Raises ConfigError for damaged files."""
        return EmbeddingPrompts(self.tokenizer, self.bundle.tokenizer_folder)

    @cached_property
    def rerank_prompts(self) -> RerankPrompts:
        """How a reranking model is asked."""
        return RerankPrompts(self.tokenizer)

    @property
    def model(self) -> str:
        """The model's name, for people."""
        return self.bundle.model

    @property
    def precision(self) -> str:
        """How the weights are stored, for people."""
        return precision_of(self.bundle)

    @property
    def identity(self) -> str:
        """Names model, weights and kind of runtime: K/V of engines with the same name can be exchanged."""
        files = sorted((name, entry.sha256) for name, entry in self.bundle.files.items())
        parts = [
            self.bundle.model,
            self.bundle.source,
            self.bundle.precision,
            files,
            type(self.runtime).__name__,
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def chat(self, system: str | None = None, params: SamplingParams | None = None) -> Conversation:
        """Begin a conversation. Without `params` the model answers as its publisher recommends: sampled, mostly.

        Raises ConfigError without a chat template.
        """
        return Conversation(self.session, self.template, system=system, params=params or self.params)

    def complete(self, prompt_ids: Sequence[int], params: SamplingParams) -> Completion:
        """Return what follows a prompt, all at once. Raises as `Session.generate` does."""
        completions: list[Completion] = []

        def run() -> Generator[Piece, None, None]:
            completions.append((yield from self.session.generate(prompt_ids, params)))

        for _ in run():
            pass
        return completions[0]

    def embed(
        self,
        text: str,
        *,
        query: bool = False,
        instruction: str | None = None,
        dimensions: int | None = None,
    ) -> NDArray[np.float32]:
        """Return the embedding of a text, float32 [dimensions], with a model that was loaded for this task.

        Raises as `EmbeddingPrompts.prompt`, `embedding` and `complete` do.
        """
        prompt = self.embedding_prompts.prompt(text, query=query, instruction=instruction)
        return embedding(self.complete(prompt, EmbeddingPrompts.params), dimensions)

    def relevance(self, query: str, document: str, instruction: str | None = None) -> float:
        """Return how sure a reranking model is that a document answers a query, from 0 to 1.

        Raises as `RerankPrompts.prompt`, `RerankPrompts.params` and `complete` do.
        """
        prompts = self.rerank_prompts
        return relevance(self.complete(prompts.prompt(query, document, instruction), prompts.params))

    def close(self) -> None:
        """Free the runtimes. May be called twice."""
        self.session.close()
        if self._draft_model is not None:
            self._draft_model.close()


def params_of(bundle: Bundle) -> SamplingParams:
    """Return how a model answers where nobody says otherwise.

    Raises ConfigError for a generation_config.json that cannot be used.
    """
    can_sample = bundle.details.get("logits") is not False
    return default_params(bundle.tokenizer_folder, bundle.config, can_sample=can_sample)


def precision_of(bundle: Bundle) -> str:
    """How a bundle's weights are stored, for people."""
    if not bundle.precision:
        return str(bundle.details.get("precision", "unknown precision"))
    return str(Precision(**bundle.precision))


def load(
    model: str | Path | None = None,
    engine: EngineName = "auto",
    *,
    precision: AnyPrecision | None = None,
    adapter: Path | None = None,
    threads: int | None = None,
    context_length: int | None = None,
    offline: bool = False,
    progress: Progress | None = None,
    chats: bool = False,
    task: Task = "chat",
    device: int | Sequence[int] = 0,
    saved_bytes: int = 0,
    sequences: int = 1,
    reproducible: bool = False,
    draft: str = "auto",
) -> Engine:
    """Load a model by any of its names, downloading and converting it on first use.

    Args:
        model: short name, hub id, folder, GGUF file or bundle; None: the demo model.
        engine: "cpu", "sim" (the vendor's simulator), "tpu" (a chip, through SAIL where that is installed, else
            libbmrt; "tpu:sail" and "tpu:bmrt" say which), or "auto".
        precision: how to convert a checkpoint; None: as it is stored if that is on a grid, else 4 bit. A bundle
            keeps its own.
        adapter: folder of a LoRA adapter to merge into a checkpoint.
        threads: CPU threads; None: all cores.
        context_length: most tokens of a conversation; None: what the model offers.
        offline: use only what is on this machine.
        progress: is told how far downloads and conversion are.
        chats: refuse a model without a chat template before it is converted.
        task: what it is for; embeddings come from models without an output layer, all else from models with one.
        device: which chip, counted from 0; of a bundle in parts the chip of each, or the first of as many.
        saved_bytes: host memory for the K/V of conversations that others take the place of.
        sequences: conversations that are answered at once, where the bundle leaves it open.
        reproducible: compute so that no answer depends on which others are computed beside it or were before; on
            a chip this holds as far as its nets round alike.
        draft: what guesses tokens for the model to check several in a step: "auto", what text repeats; "off", nothing;
            else the name of a smaller model of the same vocabulary, which is asked where nothing repeats.

    Raises:
        InputError: unknown model or engine, or a number out of range.
        CheckpointError, ConfigError, BundleError: the files cannot be used.
        DownloadError, StorageError, MissingDependencyError, DeviceError: as they say.
    """
    if engine not in get_args(EngineName):
        raise InputError(f"unknown engine {engine!r}: choose one of {', '.join(get_args(EngineName))}")
    progress, precision = progress or Silent(), precision or PrecisionOptions()
    bundle = resolve_bundle(
        None if model is None else str(model),
        precision,
        adapter=adapter,
        offline=offline,
        progress=progress,
        chats=chats,
        task=task,
        check=partial(registry.check_checkpoint, engine),
    )
    options = Options(
        partial(_simulator_folder, progress),
        progress.note,
        threads,
        context_length,
        (device,) if isinstance(device, int) else tuple(device),
        sequences,
        reproducible,
    )
    with ThreadPoolExecutor(1) as beside:
        # Both take about as long, and the runtime's part leaves Python alone.
        tokenizer = beside.submit(Tokenizer.from_folder, bundle.tokenizer_folder)
        runtime = registry.open_runtime(bundle, engine, options)
        draft_model = None
        try:
            found = tokenizer.result()
            if draft not in ("auto", "off"):
                resolve = partial(
                    resolve_bundle, precision=precision, offline=offline, progress=progress, task="chat"
                )
                draft_model = _open_draft_model(resolve(draft), (bundle, found, runtime), engine, options)
            return Engine(
                bundle,
                runtime,
                tokenizer=found,
                saved_bytes=saved_bytes,
                drafts=draft != "off",
                draft_model=draft_model,
                reproducible=reproducible,
            )
        except BaseException:
            runtime.close()
            if draft_model is not None:
                draft_model.close()
            raise


def _open_draft_model(
    bundle: Bundle, target: tuple[Bundle, Tokenizer, Runtime], engine: EngineName, options: Options
) -> DraftModel:
    """Open a model that drafts for another.

    Raises InputError unless it is smaller and has the same vocabulary, and the other one checks several tokens a step.
    """
    larger, tokenizer, runtime = target
    if bundle.kind != larger.kind:
        raise InputError(
            f"{bundle.model} cannot draft for {larger.model}: compile both, or name the models of both"
        )
    if bundle.total_bytes >= larger.total_bytes:
        raise InputError(f"{bundle.model} cannot draft for {larger.model}: it is not the smaller of the two")
    if max(runtime.row_costs(0)) == 1:
        compiled = "compile the model with --drafts, or " if larger.kind == "bmodel" else ""
        raise InputError(
            f"{larger.model} cannot check several drafted tokens in a step: {compiled}leave --draft out"
        )
    check_pair(Tokenizer.from_folder(bundle.tokenizer_folder), bundle.model, tokenizer, larger.model)
    opened = registry.open_runtime(bundle, engine, replace(options, context_length=None, sequences=1))
    # What a token takes is all reading of weights, on a processor as on the chip.
    return DraftModel(opened, bundle.total_bytes / larger.total_bytes, runtime.vocab_size)


def _simulator_folder(progress: Progress) -> Path:
    # The simulator comes with the compiler; a chip needs neither.
    from bmqwen.compiler.toolchain import open_toolchain

    return open_toolchain(report=progress.note).simulator_folder
