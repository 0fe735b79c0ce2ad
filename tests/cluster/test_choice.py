"""Where a request goes: beginnings of conversations, and the choice between replicas."""

from bmqwen.cluster.choice import Candidate, Speed, ranked, seconds_before
from bmqwen.cluster.prefixes import LANDMARK, MOST, STRIDE, KnownBeginnings, beginnings, landmarks

SPEED = Speed(sequences=4, read_rate=100.0, answer_s=8.0)


def known(owner: str, prompt: list[int]) -> KnownBeginnings[str]:
    """The replica "a" has read a prompt."""
    found: KnownBeginnings[str] = KnownBeginnings()
    found.add("a", landmarks(beginnings(owner, prompt)))
    return found


def test_a_later_turn_is_found_by_its_beginning() -> None:
    first = list(range(100, 143))
    replica = known("me", first)
    # 43 tokens: compared every 8.
    assert replica.shared(beginnings("me", [*first, *range(60)])) == {"a": 40}
    assert replica.shared(beginnings("me", [*first[:20], *range(60)])) == {}


def test_conversations_of_others_are_not_found() -> None:
    prompt = list(range(64))
    assert known("me", prompt).shared(beginnings("you", prompt)) == {}


def test_a_beginning_depends_on_all_of_its_tokens() -> None:
    prompt = list(range(80))
    other = [7, *prompt[1:]]
    assert not set(beginnings("", prompt)) & set(beginnings("", other))


def test_long_documents_are_found_with_other_questions() -> None:
    document = list(range(3 * LANDMARK + 50))
    replica = known("", [*document, *range(20)])
    assert replica.shared(beginnings("", [*document, *range(50, 80)])) == {"a": 3 * LANDMARK}


def test_the_oldest_beginnings_are_forgotten() -> None:
    replicas: KnownBeginnings[str] = KnownBeginnings()
    replicas.add("a", range(MOST))
    replicas.add("a", [0, MOST])
    assert replicas.count("a") == MOST
    assert replicas.shared([1]) == {}
    assert replicas.shared([0]) == replicas.shared([MOST]) == {"a": STRIDE}


def test_replicas_that_are_gone_are_forgotten() -> None:
    replicas: KnownBeginnings[str] = KnownBeginnings()
    replicas.add("a", [1, 2])
    replicas.add("b", [2, 3])
    assert replicas.shared([1, 2, 3]) == {"a": 2 * STRIDE, "b": 3 * STRIDE}
    replicas.keep(["b", "c"])
    assert replicas.shared([1, 2]) == {"b": 2 * STRIDE}
    assert (replicas.count("a"), replicas.count("b")) == (0, 2)


def test_short_prompts_have_no_beginning() -> None:
    assert beginnings("", list(range(STRIDE - 1))) == []
    assert landmarks([]) == []


def test_time_to_the_first_token() -> None:
    """By hand: 3 of 4 places taken, 300 new tokens at 100 a second; full, one of 4 must end first: 8 s / 4."""
    assert seconds_before(Candidate(load=3, cached=100), 400, SPEED) == 3.0
    assert seconds_before(Candidate(load=4, cached=400), 400, SPEED) == 2.0 + 0.01


def test_a_conversation_stays_while_that_is_faster() -> None:
    empty = Candidate(load=0, cached=0)
    # Reading 400 tokens elsewhere takes 4 s; two places in the queue take as long.
    assert ranked([empty, Candidate(load=3, cached=392)], 400, SPEED)[0] == 1
    assert ranked([empty, Candidate(load=4, cached=392)], 400, SPEED)[0] == 1
    assert ranked([empty, Candidate(load=8, cached=392)], 400, SPEED)[0] == 0


def test_new_conversations_go_where_least_is_done() -> None:
    candidates = [Candidate(2), Candidate(1, known=9), Candidate(1, known=3)]
    assert ranked(candidates, 100, SPEED) == [2, 1, 0]
