"""The engines that are compared, each behind the same two calls.

An engine's packages are imported in its constructor: that counts as loading, and no process holds another's code.
"""

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from bmqwen.generate.params import Piece

Shown = Callable[[str], None]
"""Is called with each new piece of text, at the moment at which a user would see it."""


class Contender(Protocol):
    """A loaded model that answers greedily. Each call of `answer` starts from an empty KV cache."""

    def version(self) -> str:
        """Name, version and what it was built for."""

    def answer(self, prompt: list[int], new_tokens: int, shown: Shown) -> int:
        """Read token ids, then generate `new_tokens` whatever they are; the number that were generated."""


class Bmqwen:
    """bmqwen's CPU engine with its default precision, as `bmqwen chat` uses it; its cache grows as needed."""

    drafts = True

    def __init__(self, file: str, threads: int, context: int) -> None:  # noqa: ARG002  (the peers reserve theirs)
        from bmqwen.engine import load
        from bmqwen.generate.params import SamplingParams
        from bmqwen.generate.session import Session
        from endless_tokenizer import EndlessTokenizer

        self._engine = load(file, "cpu", threads=threads, offline=True)
        self._session = Session(
            self._engine.runtime, EndlessTokenizer(self._engine.tokenizer), drafts=self.drafts
        )
        self._params = SamplingParams

    def version(self) -> str:
        """The package, its engine and how the weights are stored."""
        from bmqwen import __version__

        return f"bmqwen {__version__}, {self._engine.runtime.name}, {self._engine.precision}"

    def answer(self, prompt: list[int], new_tokens: int, shown: Shown) -> int:
        """Tokens to text included."""
        self._session.reset()
        params = self._params(temperature=0.0, max_tokens=new_tokens)
        made = 0

        def pieces() -> Iterator["Piece"]:
            nonlocal made
            completion = yield from self._session.generate(prompt, params)
            made = completion.usage.completion_tokens

        for piece in pieces():
            shown(piece.text)
        return made


class BmqwenUndrafted(Bmqwen):
    """The same, a token a step: what drafts save depends on the text, and each recipe writes another."""

    drafts = False


class XLlamaCpp:
    """llama.cpp's own server engine inside of the process, from the wheel `xllamacpp`."""

    def __init__(self, file: str, threads: int, context: int) -> None:
        import xllamacpp

        self._package: Any = xllamacpp
        params = xllamacpp.CommonParams()
        params.model.path = file
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.n_ctx = context
        params.n_parallel = 1
        # Batch sizes, flash attention (auto), memory mapping and warm-up (on) stay llama.cpp's defaults. What only
        # costs here is off: answers kept for later requests, the fitting to a GPU's memory, the log.
        params.cache_ram_mib = 0
        params.n_ctx_checkpoints = 0
        params.fit_params = False
        params.verbosity = -1
        self._server: Any = xllamacpp.Server(params)

    def version(self) -> str:
        """The wheel, and the instructions that it was built for."""
        info = " ".join(str(self._package.get_system_info()).split())
        return f"xllamacpp {self._package.__version__}, {info.removesuffix('|').strip()}"

    def answer(self, prompt: list[int], new_tokens: int, shown: Shown) -> int:
        """One request with streaming; its text comes in order, one piece a token."""
        made = 0

        def take(chunk: Any) -> None:
            nonlocal made
            # An error comes as text, perhaps.
            content = json.loads(chunk) if isinstance(chunk, (str, bytes)) else chunk
            if "choices" not in content:
                raise RuntimeError(f"llama.cpp answered {content}")
            made = content.get("timings", {}).get("predicted_n", made)
            shown(content["choices"][0]["text"])

        request = {
            "prompt": prompt,
            "max_tokens": new_tokens,
            "stream": True,
            "cache_prompt": False,
            "ignore_eos": True,
            # Greedy, by one sampler in place of the default chain of nine.
            "temperature": 0,
            "samplers": ["top_k"],
            "top_k": 1,
        }
        self._server.handle_completions(request, take)
        return made


class LlamaCppPython:
    """llama.cpp through `llama-cpp-python`, which pip builds for the machine's own processor."""

    def __init__(self, file: str, threads: int, context: int) -> None:
        import llama_cpp

        self._package: Any = llama_cpp
        # Flash attention is what llama.cpp's "auto" chooses on a CPU; the package has no "auto".
        self._llama: Any = llama_cpp.Llama(
            file,
            n_ctx=context,
            n_batch=2048,
            n_ubatch=512,
            n_threads=threads,
            n_threads_batch=threads,
            flash_attn=True,
            verbose=False,
        )

    def version(self) -> str:
        """The package, and the instructions that it was built for."""
        info = " ".join(self._package.llama_print_system_info().decode().split())
        return f"llama-cpp-python {self._package.__version__}, {info.removesuffix('|').strip()}"

    def answer(self, prompt: list[int], new_tokens: int, shown: Shown) -> int:
        """The package's own generator of tokens, each turned into text."""
        self._llama.reset()
        made = 0
        for token in self._llama.generate(prompt, temp=0.0):
            shown(self._llama.detokenize([token]).decode("utf-8", "replace"))
            made += 1
            if made == new_tokens:
                break
        return made


CONTENDERS: dict[str, Callable[[str, int, int], Contender]] = {
    "bmqwen": Bmqwen,
    "bmqwen-undrafted": BmqwenUndrafted,
    "xllamacpp": XLlamaCpp,
    "llama-cpp-python": LlamaCppPython,
}
"""By the names of their packages: (file, threads, tokens of context to reserve) to a loaded model."""
