"""The index of earlier places, compared with a search by brute force."""

from hypothesis import given
from hypothesis import strategies as st

from bmqwen.generate.suffix_index import CANDIDATES, DEEPEST, Match, SuffixIndex

TEXTS = st.lists(st.lists(st.integers(0, 3), max_size=60), min_size=1, max_size=3)


def brute_force(known: list[int], tail: list[int]) -> Match | None:
    """The longest match among the newest CANDIDATES places after the last two tokens that go on."""
    places = [end for end in range(len(known) - 1, 1, -1) if known[end - 2 : end] == tail[-2:]][:CANDIDATES]

    def shared(end: int) -> int:
        most = min(end, len(tail), DEEPEST)
        return next((n for n in range(most) if known[end - 1 - n] != tail[-1 - n]), most)

    best = max(places, key=shared, default=0)
    return Match(shared(best), best) if best and len(tail) > 1 else None


@given(TEXTS)
def test_a_text_finds_its_own_earlier_places(texts: list[list[int]]) -> None:
    index = SuffixIndex()
    known: list[int] = []
    for token in texts[0]:
        assert index.find(index.tokens) == brute_force(known, known)
        index.append(token)
        known.append(token)


@given(TEXTS, st.lists(st.integers(0, 3), max_size=40))
def test_other_texts_are_found_each_by_itself(texts: list[list[int]], tail: list[int]) -> None:
    index = SuffixIndex()
    known: list[int] = []
    for text in texts:
        index.add_text(text)
        known += [-1, *text]
    match = index.find(tail)
    assert match == brute_force(known, tail)
    if match is not None:
        rest = known[match.end : match.end + 5]
        assert index.after(match, 5) == (rest[: rest.index(-1)] if -1 in rest else (rest * 5)[:5])


def test_what_follows_repeats_itself_at_the_end() -> None:
    index = SuffixIndex()
    index.extend([7, 1, 2, 3, 1, 2])
    match = index.find(index.tokens)
    assert match == Match(2, 3)
    assert index.after(match, 8) == [3, 1, 2, 3, 1, 2, 3, 1]


def test_the_older_half_is_forgotten() -> None:
    index = SuffixIndex(most=100)
    index.extend([1000, 1001, 1002, *range(150), 1000, 1001])
    assert len(index) <= 101
    assert index.find(index.tokens) is None
    index.extend([148, 149])
    assert index.find(index.tokens) is not None
