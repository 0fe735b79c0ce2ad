"""A smaller model that guesses what a greater one is going to say."""

from array import array
from collections.abc import Sequence

from bmqwen.errors import InputError
from bmqwen.generate.conversation_cache import as_tokens, shared_length
from bmqwen.generate.tokenizer import Tokenizer
from bmqwen.runtime.base import Runtime, RuntimeSequence

# More tokens than these are read as a prompt is.
_FEW = 16


class DraftModel:
    """Continues a text greedily with a runtime of its own. Keeps the `Guesser` protocol.

    Attributes:
        cost: of a token, in steps of the model that checks it.
    """

    def __init__(self, runtime: Runtime, cost: float, vocab_size: int) -> None:
        """Take `runtime` over; tokens from `vocab_size` on are unknown to the model that checks."""
        self.cost = cost
        self._runtime, self._vocab_size = runtime, vocab_size
        self._sequence = RuntimeSequence(runtime)
        self._fed = array("i")

    def guess(self, tokens: Sequence[int], count: int) -> list[int]:
        """Return up to `count` tokens that may follow all of `tokens`: fewer where its own context ends."""
        count = min(count, self._runtime.context_length - len(tokens))
        if count < 1:
            return []
        shared = shared_length(as_tokens(self._fed), as_tokens(tokens[:-1]))
        self._sequence.truncate(shared)
        del self._fed[shared:]
        ahead = list(tokens[shared:])
        found: list[int] = []
        while True:
            output = self._sequence.feed(ahead) if len(ahead) <= _FEW else [*self._sequence.read(ahead)][-1]
            self._fed.extend(ahead)
            token = output.greedy()[-1]
            if token >= self._vocab_size:
                return found
            found.append(token)
            if len(found) == count:
                return found
            ahead = [token]

    def close(self) -> None:
        """Free the runtime. May be called twice."""
        self._runtime.close()


def check_pair(draft: Tokenizer, name: str, target: Tokenizer, target_name: str) -> None:
    """Raise InputError, naming both models, unless they have the same tokens."""
    if not draft.agrees_with(target):
        raise InputError(
            f"{name} cannot draft for {target_name}: its vocabulary is another one; choose a smaller model of the same "
            "family"
        )
