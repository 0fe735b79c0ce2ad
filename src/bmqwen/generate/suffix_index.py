"""Where the newest tokens were seen before, and what followed them there."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

# A match has at least two tokens: they are the key. More than so many are not compared.
DEEPEST = 32
# Earlier places with the same last two tokens that are looked at, the newest first.
CANDIDATES = 8
# Between two texts: no token, so no match and no continuation reaches across.
_CUT = -1


@dataclass(frozen=True, slots=True)
class Match:
    """An earlier place: how many tokens before it are the newest ones as well (up to DEEPEST), and where it goes on."""

    length: int
    end: int


class SuffixIndex:
    """Token ids with an index of all pairs of neighbours; a chain leads from each place to the one before it.

    Adding a token and finding a match take microseconds, however many tokens there are. When there are more than
    `most`, the older half is forgotten.
    """

    def __init__(self, most: int = 1 << 16) -> None:
        self._most = most
        self._clear()

    def __len__(self) -> int:
        return len(self.tokens)

    def _clear(self) -> None:
        self.tokens = array("i")
        # By pair, and by place: the place after the newest pair of that kind, and after the one before it; 0: none.
        self._newest: dict[int, int] = {}
        self._before = array("i")

    def append(self, token: int) -> None:
        """Add a token."""
        tokens = self.tokens
        end = len(tokens)
        # A place is known from when it goes on.
        if end > 1:
            pair = tokens[-2] << 32 | tokens[-1]
            self._before.append(self._newest.get(pair, 0))
            self._newest[pair] = end
        else:
            self._before.append(0)
        tokens.append(token)
        if end >= self._most:
            kept = tokens[end // 2 :]
            self._clear()
            self.extend(kept)

    def extend(self, tokens: Sequence[int]) -> None:
        """Add tokens."""
        for token in tokens:
            self.append(token)

    def add_text(self, tokens: Sequence[int]) -> None:
        """Add a text that has nothing to do with what came before."""
        self.append(_CUT)
        self.extend(tokens)

    def find(self, tokens: Sequence[int]) -> Match | None:
        """Return the longest match of the last `tokens`, the newest among equals; None: the last two are new."""
        if len(tokens) < 2:
            return None
        known, reach = self.tokens, min(DEEPEST, len(tokens))
        best, found = 1, 0
        place = self._newest.get(tokens[-2] << 32 | tokens[-1], 0)
        for _ in range(CANDIDATES):
            if not place:
                break
            most = min(reach, place)
            # A match that is no longer than the best one is mostly seen from one comparison.
            if most > best and known[place - best - 1] == tokens[-best - 1]:
                length = 2
                while length < most and known[place - length - 1] == tokens[-length - 1]:
                    length += 1
                if length > best:
                    best, found = length, place
                    if best == reach:
                        break
            place = self._before[place]
        return Match(best, found) if found else None

    def after(self, match: Match, count: int) -> list[int]:
        """Return up to `count` tokens that followed a match; what reaches the text's end goes on repeating itself."""
        tokens = self.tokens[match.end : match.end + count].tolist()
        if _CUT in tokens:
            return tokens[: tokens.index(_CUT)]
        period = len(tokens)
        for place in range(period, count):
            tokens.append(tokens[place - period])
        return tokens
