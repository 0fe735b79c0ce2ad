"""Running a chat template that nobody has read: it can neither reach out nor hang.

Jinja's sandbox keeps a template from Python's inside. What it lacks are limits (see `budget`): here the
template is rewritten so that its loops, macros and values pay, and offered only filters and methods whose
cost is known.
"""

# ruff: noqa: N802  (Jinja's visitor looks for these names)

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import wraps
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from bmqwen.generate.budget import (
    INTEGER_BITS,
    TemplateLimitError,
    allowance,
    as_text,
    before_format,
    before_indent,
    before_join,
    before_replace,
    characters,
    spend,
    weigh,
)

_LONGEST_RANGE = 10_000


def run(template: jinja2.Template, variables: Mapping[str, Any], size: int) -> str:
    """Render with a budget for input of `size` characters. Raises whatever the template raises."""
    with allowance(size):
        return template.render(variables)


def compile_template(source: str) -> jinja2.Template:
    """A template that `run` can render. Raises whatever Jinja and Python raise for a damaged source."""
    with allowance():  # constant expressions are computed while compiling
        environment = _Environment()
        tree = _Guard().visit(environment.parse(source))
        tree.set_environment(environment)
        code = environment.compile(tree)
        return jinja2.Template.from_code(environment, code, environment.make_globals(None))


@jinja2.pass_context
def _pay(_context: Context, cost: int) -> bool:
    """`spend` as a filter; taking the context keeps Jinja from computing it once, while compiling."""
    return spend(cost)


def _finalize(value: Any) -> Any:
    """Every {{ value }} passes here."""
    spend(characters(value))
    return value


_Check = Callable[..., None]


def _limited(function: Callable[..., Any], before: _Check | None = None, skip: int = 0) -> Callable[..., Any]:
    """A filter that pays for what it reads and makes; the first `skip` arguments are Jinja's own."""

    @wraps(function)
    def limited(*args: Any, **kwargs: Any) -> Any:
        spend(30 + _reading(args[skip:], kwargs))
        if before is not None:
            before(*args[skip:], **kwargs)
        return weigh(function(*args, **kwargs))

    return limited


def _reading(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """The cost of going through arguments once."""
    values = [*args, *kwargs.values()]
    items = sum(10 * len(value) for value in values if isinstance(value, (list, tuple, dict, range)))
    return items + sum(len(value) for value in values if isinstance(value, str))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As in transformers: no HTML escapes, unlike Jinja's own."""
    spend(8 * characters(value))
    if indent is not None:
        before_indent("", indent)
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _range(*args: int) -> range:
    result = range(*args)
    if len(result) > _LONGEST_RANGE:
        raise TemplateLimitError(f"it counts over more than {_LONGEST_RANGE:,} numbers")
    return result


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    before_format(pattern)
    return datetime.now().strftime(pattern)


_PLAIN_FILTERS = [
    "abs",
    "capitalize",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "int",
    "items",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "sort",
    "title",
    "trim",
    "unique",
    "upper",
    "wordcount",
]
_STR_METHODS = frozenset(
    [
        "capitalize",
        "count",
        "endswith",
        "find",
        "format",
        "index",
        "isalnum",
        "isalpha",
        "isdigit",
        "islower",
        "isnumeric",
        "isspace",
        "isupper",
        "join",
        "lower",
        "lstrip",
        "partition",
        "removeprefix",
        "removesuffix",
        "replace",
        "rfind",
        "rindex",
        "rpartition",
        "rsplit",
        "rstrip",
        "split",
        "splitlines",
        "startswith",
        "strip",
        "title",
        "upper",
    ]
)
_SPEND, _WEIGH, _TEXT = " spend", " weigh", " text"  # names that no template can write


class _Environment(ImmutableSandboxedEnvironment):
    """The environment that chat templates are written for (that of transformers), with limits."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            finalize=_finalize,
            extensions=[LoopControlExtension, _GenerationTag],
        )
        self.filters = {name: _limited(FILTERS[name]) for name in _PLAIN_FILTERS}
        self.filters |= {
            "replace": _limited(FILTERS["replace"], before_replace, skip=1),
            "join": _limited(FILTERS["join"], before_join, skip=1),
            "indent": _limited(FILTERS["indent"], before_indent),
            "tojson": _limited(_tojson),
            "string": as_text,
            _SPEND: _pay,
            _WEIGH: weigh,
            _TEXT: as_text,
        }
        self.globals = {
            "range": _range,
            "dict": dict,
            "namespace": Namespace,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, (int, float)) and isinstance(right, (int, float))
        if operator == "%" and isinstance(left, str):
            before_format(left)
            spend(characters(right))
        elif operator == "+" and not numbers:
            spend(sum(len(side) for side in (left, right) if isinstance(side, (str, list, tuple))))
        elif operator == "*" and not numbers:
            text, times = (right, left) if isinstance(left, int) else (left, right)
            if not isinstance(text, str):
                raise TemplateLimitError("it multiplies a list")
            spend(len(text) * times if isinstance(times, int) else 0)
        elif isinstance(left, int) and isinstance(right, int):
            bits = (
                left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
            )
            if bits > INTEGER_BITS:
                raise TemplateLimitError("it computes a number that is too large")
        return weigh(super().call_binop(context, operator, left, right))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str):
            return attr in _STR_METHODS
        if isinstance(obj, Mapping):
            return attr in ("get", "items", "keys", "values")
        if isinstance(obj, (list, tuple)):
            return attr in ("index", "count")
        known = isinstance(obj, (LoopContext, Namespace, Macro))
        return known and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        return None if wrapped is None else _limited(wrapped, lambda *_, **__: before_format(value.__self__))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        spend(100 + _reading(args, kwargs))
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str):
            spend(len(owner))
            if name == "replace":
                before_replace(owner, *args, **kwargs)
            elif name == "join":
                before_join(args[0] if args else (), owner)
        result = super().call(context, obj, *args, **kwargs)
        return result if isinstance(result, Namespace) else weigh(result)


class _GenerationTag(Extension):
    """{% generation %} marks an answer for training; its body is shown as it is."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Guard(NodeTransformer):
    """Makes what a template repeats or builds pay."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        cost = 10 + _cost([*node.body, *([node.test] if node.test is not None else [])])
        self.generic_visit(node)
        node.body.insert(0, _charge(cost, node.lineno))
        if node.test is not None:  # it runs for each item that it leaves out, too
            paid = _filter(nodes.Const(cost), _SPEND, node.lineno)
            node.test = nodes.And(paid, node.test, lineno=node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._body(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._body(node)

    def visit_Block(self, node: nodes.Block) -> nodes.Node:
        return self._body(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        result: nodes.Expr = _filter(node.nodes[0], _TEXT, node.lineno)
        for part in node.nodes[1:]:
            result = nodes.Add(result, _filter(part, _TEXT, node.lineno), lineno=node.lineno)
        return result

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = self._weighed(node.expr)
        for operand in node.ops:
            operand.expr = self._weighed(operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, _WEIGH, node.lineno) if isinstance(node.arg, nodes.Slice) else node

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, _WEIGH, node.lineno)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, _WEIGH, node.lineno)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, _WEIGH, node.lineno) if node.ctx == "load" else node

    def _body(self, node: nodes.Macro | nodes.CallBlock | nodes.Block) -> nodes.Node:
        cost = 10 + _cost(node.body)
        self.generic_visit(node)
        node.body.insert(0, _charge(cost, node.lineno))
        return node

    def _weighed(self, node: nodes.Expr) -> nodes.Expr:
        return node if isinstance(node, nodes.Const) else _filter(node, _WEIGH, node.lineno)


def _filter(node: nodes.Expr, name: str, lineno: int) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=lineno)


def _charge(cost: int, lineno: int) -> nodes.Node:
    return nodes.ExprStmt(_filter(nodes.Const(cost, lineno=lineno), _SPEND, lineno), lineno=lineno)


def _cost(body: Sequence[nodes.Node]) -> int:
    """Nodes and constant characters of a body, inner bodies included."""
    cost = 0
    for node in body:
        cost += 1 + (len(node.data) if isinstance(node, nodes.TemplateData) else 0)
        cost += _cost(list(node.iter_child_nodes()))
    return cost
