"""What a conversation has cost so far."""

from dataclasses import dataclass

from bmqwen.generate.params import Usage
from bmqwen.util.text import counted, speed_text


@dataclass(slots=True)
class AnswerTotals:
    """Sums over answers: tokens, and seconds of decoding."""

    answers: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    decoded: int = 0
    decode_s: float = 0.0

    def add(self, usage: Usage) -> None:
        """Count one answer."""
        self.answers += 1
        self.prompt_tokens += usage.prompt_tokens
        self.cached_tokens += usage.cached_tokens
        self.completion_tokens += usage.completion_tokens
        self.decoded += max(0, usage.completion_tokens - 1)
        self.decode_s += usage.decode_s

    def line(self) -> str:
        """ "3 answers · 120 prompt tokens, of which 80 cached · 210 out · 41.2 tokens/s"."""
        parts = [
            counted(self.answers, "answer"),
            f"{counted(self.prompt_tokens, 'prompt token')}, of which {self.cached_tokens:,} cached",
            f"{self.completion_tokens:,} out",
        ]
        if self.decoded and self.decode_s > 0:
            parts.append(speed_text(self.decoded / self.decode_s))
        return " · ".join(parts)
