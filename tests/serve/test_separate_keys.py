"""Two keys on one server: what one's clients said is never used for the other's."""

from pathlib import Path

from support.live_server import live_server

KEYS = ("first-key-1", "second-key-2")


def test_nothing_cached_for_one_key_is_used_for_another(thinker: Path, serve_folder: Path) -> None:
    options = [word for key in KEYS for word in ("--api-key", key)]
    question = "the same question " * 5
    cached: dict[str, list[int]] = {key: [] for key in KEYS}
    texts = set()
    with live_server(thinker, *options, cache=serve_folder / "cache") as server:
        for key in (*KEYS, *KEYS):
            body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 8}
            answer = server.post("/v1/chat/completions", body, authorization=f"Bearer {key}").json()
            cached[key].append(answer["usage"]["prompt_tokens_details"]["cached_tokens"])
            texts.add(answer["choices"][0]["message"]["content"])
    assert len(texts) == 1
    for first, second in cached.values():
        assert first == 0
        assert second > 50
