"""Answers that outlive their connection: read on from a number, read along, stopped; how they come along before."""

import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.live_server import ENDLESS, LiveServer, error_of, live_server, until

NAME = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def endless(chatterbox: Path, serve_folder: Path) -> Iterator[LiveServer]:
    """Answers until it is stopped."""
    options = ("--temperature", "0", *ENDLESS)
    with live_server(chatterbox, *options, cache=serve_folder / "cache") as served:
        yield served


def ask(server: LiveServer, name: str, lines: list[str], enough: threading.Event) -> threading.Thread:
    """Read an answer in a thread until `enough` is set or it ends; its lines are appended."""

    def read() -> None:
        body = {"messages": [{"role": "user", "content": "hi"}], "stream": True}
        with httpx.stream(
            "POST", f"{server.url}/v1/chat/completions", json=body, headers={"x-answer-id": name}, timeout=60
        ) as response:
            for line in response.iter_lines():
                lines.append(line)
                if enough.is_set():
                    return

    thread = threading.Thread(target=read)
    thread.start()
    return thread


def events_after(server: LiveServer, name: str, after: int, count: int) -> list[str]:
    """The first lines of an answer that is read on."""
    found: list[str] = []
    with server.client.stream("GET", f"/v1/answers/{name}?after={after}") as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            found.append(line)
            if len(found) == count:
                break
    return found


def test_an_answer_is_read_on_where_it_was_and_stopped(endless: LiveServer) -> None:
    lines: list[str] = []
    gone = threading.Event()
    reader = ask(endless, NAME, lines, gone)
    until(lambda: sum(line.startswith("data:") for line in lines) > 3)
    gone.set()
    reader.join()
    numbers = [int(line[3:]) for line in lines if line.startswith("id:")]
    assert numbers == list(range(1, len(numbers) + 1))
    again = events_after(endless, NAME, 2, 6)
    assert again == lines[lines.index("id: 3") :][:6]
    # Nobody else may take the name, and a second reader reads along until one stops it.
    refused = endless.post(
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "hi"}], "stream": True},
        **{"x-answer-id": NAME},
    )
    assert error_of(refused)["code"] == "invalid_request"
    rest: list[str] = []
    along = threading.Thread(target=lambda: rest.extend(events_after(endless, NAME, 0, 10**9)))
    along.start()
    assert endless.client.delete(f"/v1/answers/{NAME}").status_code == 204
    along.join(timeout=20)
    assert '"code":"answer_stopped"' in rest[-2 if rest[-1] == "" else -1]
    until(lambda: endless.client.get("/health").json()["status"] == "ok")
    assert endless.client.get("/v1/answers/" + "0" * 32).status_code == 404
    assert endless.client.delete("/v1/answers/" + "0" * 32).status_code == 404


def test_who_waits_is_told_how_many_are_before(endless: LiveServer) -> None:
    first: list[str] = []
    second: list[str] = []
    over = threading.Event()
    running = ask(endless, "1" * 32, first, over)
    until(lambda: any(line.startswith("data:") for line in first))
    waiting = ask(endless, "2" * 32, second, over)
    until(lambda: ": queue 1" in second)
    endless.client.delete(f"/v1/answers/{'1' * 32}")
    until(lambda: any(line.startswith("data:") for line in second))
    endless.client.delete(f"/v1/answers/{'2' * 32}")
    for thread in (running, waiting):
        thread.join(timeout=20)


def test_an_answer_ends_by_itself_and_stays_for_a_while(talking: LiveServer) -> None:
    lines: list[str] = []
    ask(talking, NAME, lines, threading.Event()).join(timeout=20)
    assert "data: [DONE]" in lines
    assert events_after(talking, NAME, 0, len(lines)) == lines
    bad = talking.post(
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "hi"}], "stream": True},
        **{"x-answer-id": "../x"},
    )
    assert error_of(bad)["message"] == "the header x-answer-id must be 32 hexadecimal digits"
