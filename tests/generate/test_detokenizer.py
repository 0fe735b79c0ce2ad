"""Streaming shows whole characters only, and all of them."""

from hypothesis import given
from hypothesis import strategies as st

from bmqwen.generate.text_stream import Detokenizer, tokens_showing
from support.toy_tokenizer import toy_tokenizer

TOKENIZER = toy_tokenizer()
IDS = st.lists(st.integers(0, TOKENIZER.vocab_size + 2))
BYTES = {TOKENIZER.token_bytes(token): token for token in range(256)}


def pieces(ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(TOKENIZER)
    return [*map(detokenizer.push, ids), detokenizer.finish()]


@given(IDS)
def test_pieces_of_any_tokens_join_to_the_whole(ids: list[int]) -> None:
    assert "".join(pieces(ids)) == TOKENIZER.decode(ids)


@given(st.binary())
def test_any_bytes_join_to_the_whole(data: bytes) -> None:
    assert "".join(pieces([BYTES[bytes([byte])] for byte in data])) == data.decode("utf-8", "replace")


@given(st.text())
def test_no_piece_of_valid_text_has_half_a_character(text: str) -> None:
    shown = pieces([BYTES[bytes([byte])] for byte in text.encode()])
    assert "".join(shown) == text
    assert all(len(piece) <= 1 for piece in shown)


def test_characters_come_as_soon_as_they_are_complete() -> None:
    ids = [BYTES[bytes([byte])] for byte in "你😀".encode()]
    assert pieces(ids) == ["", "", "你", "", "", "", "😀", ""]


def test_an_unfinished_end_is_pending_until_finish() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    assert detokenizer.push(BYTES[b"\xe4"]) == ""
    assert detokenizer.pending
    assert detokenizer.finish() == "\ufffd"


@given(IDS, st.data())
def test_tokens_showing_a_beginning_show_exactly_that(ids: list[int], data: st.DataObject) -> None:
    whole = TOKENIZER.decode(ids)
    text = whole[: data.draw(st.integers(0, len(whole)))]
    assert TOKENIZER.decode(tokens_showing(TOKENIZER, ids, text)) == text


def test_sampled_tokens_are_kept_though_the_text_would_encode_otherwise() -> None:
    spelled = [BYTES[bytes([byte])] for byte in b"hello"]
    assert TOKENIZER.encode("hello") != spelled
    assert tokens_showing(TOKENIZER, spelled, "hello") == spelled
    assert tokens_showing(TOKENIZER, spelled, "hell") == spelled[:4]
    assert tokens_showing(TOKENIZER, spelled[:3], "hello") == [*spelled[:3], *TOKENIZER.encode("lo")]
    assert tokens_showing(TOKENIZER, [*TOKENIZER.encode("hello")], "hel") == TOKENIZER.encode("hel")
