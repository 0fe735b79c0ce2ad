"""A hostile template neither escapes nor hangs."""

import pytest

from bmqwen.errors import InputError
from bmqwen.generate.template import Message
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
    "a power": "{{ 10 ** 10 ** 8 }}",
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
    "width of a date": "{{ strftime_now('%1000000000d') }}",
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
    "bytes": "{{ ''.encode() }}",
    "lipsum": "{{ lipsum() }}",
    "cycler": "{{ cycler.__init__.__globals__ }}",
    "paying back": "{{ -5 | spend }}",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", HANGING)
def test_a_template_cannot_hang(name: str) -> None:
    with pytest.raises(InputError, match="chat template"):
        toy_template(HANGING[name]).render(CHAT)


@pytest.mark.parametrize("name", ESCAPING)
def test_a_template_cannot_escape(name: str) -> None:
    with pytest.raises(InputError, match="chat template"):
        toy_template(ESCAPING[name]).render(CHAT)


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
        ("{% filter upper %}{{ 'a' | indent(2, first=true) }}{% endfilter %}", "  A"),
    ],
)  # fmt: skip
def test_what_honest_templates_use_works(source: str, text: str) -> None:
    assert toy_template(source).render(CHAT) == text


def test_a_long_chat_is_within_the_budget() -> None:
    quadratic = (
        "{% for m in messages %}{% for n in messages %}{% if loop.last and n.role == 'user' %}"
        "{{ m.content | trim }}{% endif %}{% endfor %}{% endfor %}"
    )
    chat = [Message("user", "hello " * 100)] * 301
    assert len(toy_template(quadratic).render(chat)) == 301 * 599
