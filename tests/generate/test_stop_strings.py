"""Stop strings end the text wherever the pieces are cut, and no part of one is shown."""

from hypothesis import given
from hypothesis import strategies as st

from bmqwen.generate.text_stream import StopStrings

LETTERS = st.text("ab\n你", max_size=24)


def stream(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    """What is shown of pieces, and whether a stop string ended them."""
    stop_strings = StopStrings(stops)
    shown = ""
    for piece in pieces:
        text, stopped = stop_strings.push(piece)
        shown += text
        if stopped:
            return shown, True
    return shown + stop_strings.flush(), False


def naive(stops: list[str], text: str) -> tuple[str, bool]:
    """Read on character by character until the text ends with a stop string."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(st.lists(st.text("ab\n你", min_size=1, max_size=4), max_size=3), LETTERS, st.data())
def test_any_cut_gives_what_reading_on_gives(stops: list[str], text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert stream(stops, pieces) == naive(stops, text)


@given(st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3), LETTERS)
def test_what_is_held_back_could_begin_a_stop_string(stops: list[str], text: str) -> None:
    stop_strings = StopStrings(stops)
    shown, stopped = stop_strings.push(text)
    held = stop_strings.flush()
    assert stopped or shown + held == text
    assert not held or any(stop.startswith(held) for stop in stops)


def test_across_pieces() -> None:
    assert stream(["\nUser:"], ["Sure", ".\n", "Us", "er", ":", " hi"]) == ("Sure.", True)
    assert stream(["\nUser:"], ["Sure", ".\n", "Us", "age"]) == ("Sure.\nUsage", False)


def test_text_flows_at_once_without_stop_strings() -> None:
    assert StopStrings([]).push("abc") == ("abc", False)
