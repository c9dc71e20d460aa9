"""What a model wrote is right by the answer in it, and by nothing that it could make run."""

from __future__ import annotations

import ast
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.foundation.errors import UserError
from train.chain_of_thought.answers import ExtractConfig
from train.chain_of_thought.arithmetic import value_of
from train.chain_of_thought.verifier import Verifier, check_verifier

NUMBER, AFTER = ExtractConfig("number"), ExtractConfig("after", phrase="=")


@pytest.mark.parametrize(
    ("kind", "extract", "text", "expected", "right"),
    [
        ("answer", ExtractConfig(), " 7 ", "7", True),
        ("answer", ExtractConfig(), "7.0", "7", False),
        ("answer", NUMBER, "so it is 1,200.", "1200.0", True),
        ("answer", NUMBER, "12 or 13", "12", False),
        ("answer", NUMBER, "none", "12", False),
        ("pattern", ExtractConfig(), "ab12", r"[ab]+\d+", True),
        ("pattern", ExtractConfig(), "ab12!", r"[ab]+\d+", False),
        ("pattern", NUMBER, "ab 12!", r"\d+", True),
        ("arithmetic", AFTER, "half is = 2 / 4.", "0.5", True),
        ("arithmetic", AFTER, "= 0.3333", "1/3", False),
        ("arithmetic", AFTER, "= __import__('os').abort()", "1", False),
        ("arithmetic", AFTER, "nothing", "1", False),
    ],
)
def test_an_answer_is_right_by_equality_by_a_pattern_or_by_its_value(kind, extract, text, expected, right):
    assert Verifier(kind, extract).accepts(text, expected) is right


@pytest.mark.parametrize(("kind", "expected"), [("pattern", "(a"), ("arithmetic", "seven")])
def test_an_expectation_that_can_not_be_met_is_refused(kind, expected):
    with pytest.raises(UserError, match=r"the answer .* is no"):
        Verifier(kind, ExtractConfig()).accepts("7", expected)


def test_a_verifier_that_there_is_not_is_refused():
    with pytest.raises(UserError, match=r"objective\.verifier=program: there are answer, .*; programs"):
        check_verifier("program", ExtractConfig(), "objective.verifier")
    with pytest.raises(UserError, match=r"needs extract\.phrase"):
        check_verifier("answer", ExtractConfig("after"))


def drawn(draw: random.Random, depth: int) -> str:
    if depth == 0 or draw.random() < 0.3:
        return str(draw.randrange(100))
    if draw.random() < 0.3:
        return draw.choice(("-", "+")) + f"({drawn(draw, depth - 1)})"
    return f"({drawn(draw, depth - 1)}){draw.choice('+-*/')}{drawn(draw, depth - 1)}"


def by_syntax_tree(node: ast.expr) -> Fraction:
    """Return the value of what Python's own parser makes of an expression."""
    if isinstance(node, ast.Constant):
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp):
        return by_syntax_tree(node.operand) * (-1 if isinstance(node.op, ast.USub) else 1)
    assert isinstance(node, ast.BinOp)
    left, right = by_syntax_tree(node.left), by_syntax_tree(node.right)
    if isinstance(node.op, ast.Div):
        return left / right
    return {ast.Add: left + right, ast.Sub: left - right, ast.Mult: left * right}[type(node.op)]


@given(st.integers(0, 10**9))
def test_an_expression_has_the_value_that_pythons_own_parser_gives_it(seed):
    expression = drawn(random.Random(seed), 5)
    try:
        expected: Fraction | None = by_syntax_tree(ast.parse(expression, mode="eval").body)
    except ZeroDivisionError:
        expected = None
    assert value_of(expression) == expected


WRITTEN = {
    **{"2×3÷4": "3/2", "1,200.5": "2401/2", "０.5": "1/2", "−3 - -4": "1"},
    **{"8-3-2": "3", "16/4/2": "2", ".5": "1/2"},
}


@pytest.mark.parametrize(("expression", "value"), WRITTEN.items())
def test_signs_and_digits_are_taken_as_people_write_them(expression, value):
    assert value_of(expression) == Fraction(value)


NONE = (
    "",
    "2**3",
    "1,2",
    "3 4",
    "1/0",
    "(1",
    "1)",
    "x",
    ".",
    "(" * 99 + "1" + ")" * 99,
    "-" * 99 + "1",
    "1+" * 600 + "1",
)


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_expression_has_no_value(text):
    assert value_of(text) is None
