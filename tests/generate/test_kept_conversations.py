"""Conversations in a folder: taken back by the same model for the same owner, and by nobody else."""

from pathlib import Path

from bmqwen.generate.conversation_cache import ConversationCache
from bmqwen.generate.kept_conversations import KeptConversations
from bmqwen.generate.params import SamplingParams
from bmqwen.generate.session import Session
from support.toy_runtime import ToyRuntime, drain
from support.toy_tokenizer import toy_tokenizer

TOKENIZER = toy_tokenizer()
PROMPT = TOKENIZER.encode("What is the answer to everything?")
OTHER = TOKENIZER.encode("Another conversation, long enough to be kept.")
ASK = SamplingParams(max_tokens=4)


def session(budget: int = 1 << 20) -> Session:
    return Session(ToyRuntime(TOKENIZER.vocab_size), TOKENIZER, saved=ConversationCache(budget))


def keep(folder: Path) -> None:
    """What an engine does that answers two owners and ends."""
    first = session()
    drain(first.generate(PROMPT, ASK, owner="one"))
    drain(first.generate(OTHER, ASK, owner="two"))
    first.batcher.put_away()
    assert KeptConversations(folder, "model").write(first.saved) == 2


def cached(folder: Path, prompt: list[int], owner: str, identity: str = "model") -> int:
    """Tokens of a prompt that a new engine need not read."""
    of = session()
    KeptConversations(folder, identity).read(of.saved)
    return drain(of.generate(prompt, ASK, owner=owner))[1].usage.cached_tokens


def test_the_next_engine_takes_them_back(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    keep(folder)
    assert cached(folder, PROMPT, "one") == len(PROMPT) - 1
    assert cached(folder, OTHER, "two") == len(OTHER) - 1
    assert cached(folder, PROMPT, "two") == 0
    assert cached(folder, PROMPT, "one", identity="another model") == 0
    assert len(list(folder.iterdir())) == 2  # another model's are left
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_damaged_files_are_removed(tmp_path: Path) -> None:
    keep(tmp_path)
    for path, change in zip(sorted(tmp_path.iterdir()), (b"x", b""), strict=True):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + change if change else content[:20])
    (tmp_path / "empty.conversation").touch()
    assert cached(tmp_path, PROMPT, "one") == 0
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_longer_in_the_cache_is_no_longer_in_the_folder(tmp_path: Path) -> None:
    keep(tmp_path)
    empty = session()
    KeptConversations(tmp_path, "another model").write(empty.saved)
    assert len(list(tmp_path.iterdir())) == 2
    KeptConversations(tmp_path, "model").write(empty.saved)
    assert list(tmp_path.iterdir()) == []


def test_a_small_cache_takes_what_fits(tmp_path: Path) -> None:
    keep(tmp_path)
    of = session(budget=400)
    KeptConversations(tmp_path, "model").read(of.saved)
    assert len(of.saved) == 1
