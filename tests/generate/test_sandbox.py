"""A hostile template neither escapes nor hangs."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from bmqwen.errors import DeviceError, InputError
from bmqwen.generate import sandbox, template
from bmqwen.generate.sandbox import Sandbox
from bmqwen.generate.template import Message
from bmqwen.runtime.child_process import ChildProcess
from support.processes import wait_for_end
from support.toy_tokenizer import toy_template

CHAT = [Message("user", "hello"), Message("assistant", "hi"), Message("user", "bye")]

NAMESPACE = "{% set ns = namespace(x='aaaaaaaa', l=['lol'], d={}, n=7) %}"
BIG = "{% set x = 'a' * 1000000 %}{% set r = range(9999) %}"

HANGING = {
    "a long range": "{% for i in range(10**9) %}{% endfor %}",
    "nested loops": "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}",
    "nested loops over one list": BIG
    + "{% for i in r %}{% for j in r %}{% for k in r %}{% endfor %}{% endfor %}{% endfor %}",
    "loops that keep nothing": BIG + "{% for i in r %}{% for j in r if j > 10000 %}{% endfor %}{% endfor %}",
    "loops over text": "{% for i in range(9999) %}{% for c in 'a' * 9999 %}{% endfor %}{% endfor %}",
    "macros": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "recursive loop": "{% for i in [[1]] recursive %}{{ loop(i and [i, i]) }}{% endfor %}",
    "filters in a loop": BIG + "{% for i in r %}{% set y = r | select('odd') | list %}{% endfor %}",
    "comparing": BIG + "{% for i in r %}{% if 'a' in r | list or 'b' in x %}{% endif %}{% endfor %}",
    "slicing": BIG + "{% for i in r %}{% set y = x[::-1] %}{% endfor %}",
    "a long text": "{{ 'a' * 10**10 }}",
    "a long list": "{{ [1] * 10**9 }}",
    "a power": "{{ 10 ** (10 ** 8) }}",
    "squares": NAMESPACE + "{% for i in range(99) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "doubling by ~": NAMESPACE + "{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "doubling by +": NAMESPACE + "{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "doubling by join": NAMESPACE
    + "{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] | join %}{% endfor %}",
    "doubling by a block": NAMESPACE
    + "{% for i in range(60) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}{% endfor %}",
    "nested lists": NAMESPACE
    + "{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l | tojson }}",
    "nested dicts": NAMESPACE
    + "{% for i in range(60) %}{% set ns.d = dict(a=ns.d, b=ns.d) %}{% endfor %}{{ ns.d }}",
    "nested namespaces": NAMESPACE
    + "{% for i in range(60) %}{% set ns.d = namespace(a=ns.d, b=ns.d) %}{% endfor %}{{ ns.d }}",
    "width by %": "{{ '%1000000000d' % 5 }}",
    "computed width by %": "{{ '%*d' % (1000000000, 5) }}",
    "width by format": "{{ '{:1000000000}'.format('x') }}",
    "computed width by format": "{{ '{:{}}'.format('x', 1000000000) }}",
    "center": "{{ 'a'.center(10**9) }}",
    "replace": BIG + "{{ x | replace('a', x) }}",
    "replace by names": BIG + "{{ x | replace(new=x, old='a') }}",
    "replace method": BIG + "{{ x.replace('', x) }}",
    "join": BIG + "{{ r | join(x) }}",
    "join of text": BIG + "{{ x | join(x) }}",
    "join method": BIG + "{{ x.join(x) }}",
    "indent": BIG + "{{ ('a\\n' * 9999) | indent(10**9) }}",
}
ESCAPING = {
    "class": "{{ ''.__class__.__mro__ }}",
    "class by name": "{{ ''['__class__']['__mro__'] }}",
    "class by map": "{{ [''] | map(attribute='__class__') | map(attribute='__mro__') | list | tojson }}",
    "format": "{{ '{0.__class__.__mro__}'.format('') }}",
    "globals of a function": "{{ raise_exception.__globals__.x }}",
    "self": "{{ self.__init__.__globals__ }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as os %}",
    "append": "{{ messages.append(1) }}",
    "update": "{{ messages[0].update({'a': 1}) }}",
    "a global's module": "{{ lipsum.__globals__['os'].popen('true') }}",
    "cycler": "{{ cycler.__init__.__globals__.os }}",
    "attr": "{{ ('' | attr('__class__')).__mro__ }}",
    "subclasses": "{{ {}.__class__.__subclasses__() }}",
    "a format's map": "{{ '{x.__class__.__mro__}'.format_map({'x': 1}) }}",
    "frames": "{% set g = messages | map('upper') %}{{ g.gi_frame.f_globals }}",
}


@pytest.fixture(scope="module")
def impatient() -> Iterator[Sandbox]:
    """Stops a template sooner, so that the many that are stopped here take less time."""
    sandbox = Sandbox(cpu_seconds=0.3)
    yield sandbox
    sandbox.close()


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.thorough if number % 3 else ())
        for number, name in enumerate(HANGING)
    ],
)
def test_a_template_cannot_hang(name: str, impatient: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template, "SANDBOX", impatient)
    with pytest.raises(InputError, match="chat template"):
        toy_template(HANGING[name]).render(CHAT)


@pytest.mark.parametrize("name", ESCAPING)
def test_a_template_cannot_escape(name: str) -> None:
    with pytest.raises(InputError, match="chat template"):
        toy_template(ESCAPING[name]).render(CHAT)


def test_a_template_that_is_stopped_stops_no_other(impatient: Sandbox) -> None:
    for source in (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10**10 }}",
    ):
        with pytest.raises(InputError):
            impatient.render(source, {})
        assert impatient.render("{{ x }}", {"x": "fine"}) == "fine"


def test_a_process_that_was_killed_is_replaced(impatient: Sandbox) -> None:
    impatient.check("x")
    assert impatient._child is not None
    os.kill(impatient._child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, impatient._child.pid, os.WEXITED | os.WNOWAIT)
    assert impatient.render("{{ x }}", {"x": "fine"}) == "fine"


def test_a_process_that_hangs_is_replaced(impatient: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient.close()
    monkeypatch.setattr(sandbox, "ANSWER_SECONDS", 0.5)
    impatient.check("x")
    assert impatient._child is not None
    os.kill(impatient._child.pid, signal.SIGSTOP)
    with pytest.raises(InputError, match="more than"):
        impatient.check("y")
    impatient.check("x")


def test_a_process_that_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_module: str, *, what: str) -> ChildProcess:
        return ChildProcess("bmqwen.no_such_module", what=what)

    monkeypatch.setattr(sandbox, "ChildProcess", start)
    with pytest.raises(DeviceError, match=r"the templates' process ended unexpectedly \(exit status 1"):
        Sandbox().check("x")


def test_a_template_has_no_more_time_to_be_compiled(impatient: Sandbox) -> None:
    with pytest.raises(InputError, match="more than"):  # Jinja computes constants while it compiles
        impatient.check("{{ 'a' | center(50000000) | wordwrap(1) }}")


def test_text_is_limited() -> None:
    with pytest.raises(InputError, match="5,000,000 characters"):
        toy_template("{{ 'a' * 5000000 }}").render(CHAT)
    with pytest.raises(InputError, match="longer than"):
        toy_template("").render([Message("user", "a" * 70_000_000)])


def test_threads_take_turns(impatient: Sandbox) -> None:
    def render(number: int) -> str:
        return impatient.render("{% for i in range(100) %}{{ x }}{% endfor %}", {"x": number})

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(render, range(64))) == [str(number) * 100 for number in range(64)]


def test_its_process_ends_with_the_program() -> None:
    program = (
        "from bmqwen.generate.sandbox import SANDBOX\n"
        "SANDBOX.check('x')\nprint(SANDBOX._child.pid, flush=True)\nimport os, sys\n"
    )
    for ending in ("os._exit(0)", "sys.exit()"):
        done = subprocess.run(
            [sys.executable, "-c", program + ending], capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stderr == ""
        wait_for_end(int(done.stdout))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{% for i in range(5) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("{{ 'a' ~ 1 ~ none ~ undefined_name }}", "a1None"),
        ("{{ messages[1:] | map(attribute='content') | join(', ') }}", "hi, bye"),
        (NAMESPACE + "{% for m in messages %}{% set ns.l = ns.l + [m.role] %}{% endfor %}{{ ns.l[1:] | tojson }}",
         '["user", "assistant", "user"]'),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "2"),
        ("{{ '%s-%02d' % ('a', 5) }}{{ '{}:{x}'.format(1, x=2) }}", "a-051:2"),
        ("{% macro f(a, b='c') %}<{{ a }}{{ b }}>{% endmacro %}{{ f('x') }}{{ f('y', b='z') }}", "<xc><yz>"),
        ("{{ {'a': [1, (2, 3)]} | tojson(indent=2) }}", '{\n  "a": [\n    1,\n    [\n      2,\n      3\n    ]\n  ]\n}'),
        ("{% for m in messages %}{{ loop.index0 }}{{ loop.last }}{{ loop.previtem is defined }} {% endfor %}",
         "0FalseFalse 1FalseTrue 2TrueTrue "),
        ("{{ messages[-1]['content'].split('y')[0] }}{{ 7 // 2 * 2 ** 3 % 5 }}", "b4"),
        ("{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}{{ (1, 2)[0] }}", "a11"),
        ("{{ [1, 2, 3] | sum }}{{ ['a', 'b'] | batch(1) | list }}", "6[['a'], ['b']]"),
        ("{% for role, of in messages | groupby('role') %}{{ role }}{{ of | length }}{% endfor %}",
         "assistant1user2"),
        ("{{ 'a b' | urlencode }}{{ '%s!' | format('a') }}{{ '<b>x</b>' | striptags }}", "a%20ba!x"),
        ("{{ 'ab' | wordwrap(1) }}{{ 'x y z' | truncate(3, true, '', 0) }}", "a\nbx y"),
        ("{{ 'a'.zfill(3) }}{{ 'a'.ljust(2) }}{{ 'A'.swapcase() }}{{ 'ß'.casefold() }}", "00aa ass"),
        ("{{ [0] * 3 }}{{ range(20000) | length }}{{ {'a': 1}.copy() }}", "[0, 0, 0]20000{'a': 1}"),
        ("{{ 'a' | center(3) | pprint }}{{ namespace(a=1).a }}{{ 3 is divisibleby 3 }}", "' a '1True"),
        ("{% filter upper %}{{ 'a' | indent(2, first=true) }}{% endfilter %}", "  A"),
    ],
)  # fmt: skip
def test_what_honest_templates_use_works(source: str, text: str) -> None:
    assert toy_template(source).render(CHAT) == text


def test_a_long_chat_is_within_the_limits() -> None:
    quadratic = (
        "{% for m in messages %}{% for n in messages %}{% if loop.last and n.role == 'user' %}"
        "{{ m.content | trim }}{% endif %}{% endfor %}{% endfor %}"
    )
    chat = [Message("user", "hello " * 100)] * 301
    assert len(toy_template(quadratic).render(chat)) == 301 * 599
