"""Pieces that come fast are sent together, in order, and none is lost."""

from bmqwen.generate.params import Piece, TokenLogprob
from bmqwen.serve.pool.engine_process import GATHER_SECONDS, PieceBuffer


def logprob(token: int) -> TokenLogprob:
    """Of some token."""
    return TokenLogprob(token, "x", b"x", -1.0)


class Talk:
    """What was sent of pieces that came at certain times."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sent: list[Piece] = []
        self.buffer = PieceBuffer(self.sent.append, lambda: self.now)

    def say(self, text: str, after: float, *tokens: int) -> None:
        """A piece comes some seconds after the last one."""
        self.now += after
        self.buffer.add(Piece(text, tuple(map(logprob, tokens))))


def test_the_first_piece_is_sent_immediately() -> None:
    talk = Talk()
    talk.say("a", 0)
    assert talk.sent == [Piece("a")]


def test_slow_pieces_are_sent_one_by_one() -> None:
    talk = Talk()
    for text in "abc":
        talk.say(text, GATHER_SECONDS)
    assert [piece.text for piece in talk.sent] == ["a", "b", "c"]


def test_fast_pieces_are_sent_together() -> None:
    talk = Talk()
    for number, text in enumerate("abcdef"):
        talk.say(text, GATHER_SECONDS / 2.5, number)
    assert [piece.text for piece in talk.sent] == ["a", "bcd"]
    talk.buffer.flush()
    talk.buffer.flush()
    assert [piece.text for piece in talk.sent] == ["a", "bcd", "ef"]
    assert [item.token_id for piece in talk.sent for item in piece.logprobs] == [0, 1, 2, 3, 4, 5]


def test_thoughts_are_not_sent_with_the_text() -> None:
    talk = Talk()
    talk.buffer.add(Piece("a", kind="thought"))
    talk.buffer.add(Piece("b", kind="thought"))
    talk.buffer.add(Piece("c"))
    talk.buffer.flush()
    assert talk.sent == [Piece("a", kind="thought"), Piece("b", kind="thought"), Piece("c")]
