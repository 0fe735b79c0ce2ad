"""One engine in a process of its own: a job as JSON on stdin, its measurements as one line of JSON on stdout."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

START = time.perf_counter()
# Tokens of the uncounted answers that come first.
WARMUP_TOKENS = 8


def peak_bytes() -> int:
    """Most memory that this process held at once (resident set, mapped files included)."""
    # getrusage's ru_maxrss would start with the size of the process that started this one.
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM: peak memory needs Linux")


def timed(contender: Any, prompt: list[int], new_tokens: int) -> tuple[float, float, str]:
    """First-token latency in seconds, tokens/s after it, and the text, all seen from outside of the engine.

    Raises RuntimeError if the answer has another length than asked for.
    """
    first: float | None = None
    texts: list[str] = []

    def shown(text: str) -> None:
        nonlocal first
        if first is None:
            first = time.perf_counter()
        texts.append(text)

    start = time.perf_counter()
    made = contender.answer(prompt, new_tokens, shown)
    end = time.perf_counter()
    if made != new_tokens or first is None:
        raise RuntimeError(f"it generated {made} tokens in place of {new_tokens}")
    return first - start, (made - 1) / (end - first), "".join(texts)


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Load, warm up, measure. Keys: those of `comparison.METRICS`, version, text."""
    from contenders import CONTENDERS

    prompts, new_tokens = job["prompts"], job["new_tokens"]
    # Whole batches of 256, as llama.cpp rounds it anyway.
    context = -(-(max(map(len, prompts.values())) + new_tokens) // 256) * 256
    contender = CONTENDERS[job["engine"]](job["file"], job["threads"], context)
    results: dict[str, Any] = {"load_s": time.perf_counter() - START}
    for name, prompt in prompts.items():
        before = time.perf_counter()
        latency, _, _ = timed(contender, prompt, WARMUP_TOKENS)
        if name == "short":
            results["start_to_first_token_s"] = before + latency - START
    for name, prompt in prompts.items():
        latency, speed, text = timed(contender, prompt, new_tokens)
        results |= {f"{name}_first_token_s": latency, f"{name}_tokens_per_s": speed, "text": text}
    return results | {"peak_bytes": peak_bytes(), "version": contender.version()}


def main() -> int:
    """Run one job. Whatever an engine prints goes to stderr."""
    answer = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        result = measure(json.load(sys.stdin))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        result = {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    answer.write(json.dumps(result, ensure_ascii=False) + "\n")
    answer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
