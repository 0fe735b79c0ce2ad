"""The process that chat templates run in: it renders one after the other, until its socket is closed.

A template is a program that nobody has read. Jinja's sandbox keeps it from Python's inside, and this process adds
the limits that the sandbox lacks, on memory, CPU time and length.
"""

import json
import resource
import signal
import socket
import sys
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class _GenerationTag(Extension):
    """{% generation %} marks an answer for training; its body is shown as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As in transformers: no HTML escapes, unlike Jinja's own."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _environment() -> ImmutableSandboxedEnvironment:
    """The environment that chat templates are written for: that of transformers."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[LoopControlExtension, _GenerationTag]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
    return environment


def _answer(
    compiled: Callable[[str], jinja2.Template], request: dict[str, Any], longest: int
) -> dict[str, str]:
    try:
        template = compiled(request["source"])
        text = "" if request["variables"] is None else template.render(request["variables"])
    except RecursionError:
        return {"error": "it is nested without end"}
    except MemoryError:
        return {"error": "it makes text or values without bound"}
    except Exception as error:  # a template can raise anything that Python can
        return {"error": " ".join(str(error).split())[:1000] or type(error).__name__}
    if len(text) > longest:
        return {"error": f"it makes {len(text):,} characters, more than the {longest:,} allowed"}
    return {"text": text}


def main() -> None:
    """Answer requests, each a line of JSON, until the socket is closed. The first line has the limits."""
    compiled = lru_cache(8)(_environment().from_string)
    with socket.socket(fileno=int(sys.argv[1])) as ours, ours.makefile("rwb") as stream:
        limits = json.loads(stream.readline())
        resource.setrlimit(resource.RLIMIT_DATA, (limits["memory"], limits["memory"]))
        for nothing in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
            resource.setrlimit(nothing, (0, 0))
        # By default the signal ends the process, also within a long call. It counts CPU time, so that an honest
        # template on a busy machine is not stopped; nothing in a template can wait.
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        stream.write(b"\n")
        stream.flush()
        while line := stream.readline():
            signal.setitimer(signal.ITIMER_PROF, limits["cpu_seconds"])
            answer = json.dumps(_answer(compiled, json.loads(line), limits["longest_text"])).encode()
            signal.setitimer(signal.ITIMER_PROF, 0)
            stream.write(answer + b"\n")
            stream.flush()


if __name__ == "__main__":
    main()
