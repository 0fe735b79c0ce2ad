"""A tokenizer for answers of an exact length."""

from bmqwen.generate.tokenizer import Tokenizer


class EndlessTokenizer(Tokenizer):
    """Another tokenizer, whose content it shares, without the tokens that end an answer."""

    def __init__(self, other: Tokenizer) -> None:
        self.__dict__.update(vars(other), stop_ids=frozenset())
