"""Problems of arithmetic whose steps can be written out: long chains of operations, and products of large numbers.

A problem is held out by the hash of what is asked, so that no problem of a test is ever trained on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import xxhash

MODULUS, OPERATIONS = 7, 10
DIGITS = 3
ENDS_STEPS = ";"
HELD_OUT_ONE_IN = 16


@dataclass(frozen=True)
class Problem:
    """What is asked, how it is worked out and what comes out.

    Args:
        question: ends with `=`.
        steps: one right way; there may be others.
        answer: the last thing that is to be written.
    """

    question: str
    steps: str
    answer: str

    def sample(self, with_steps: bool) -> dict[str, str]:
        """Return the problem as a sample to be tuned on."""
        return {"prompt": self.question, "completion": (self.steps if with_steps else "") + self.answer}


def chain(draw: random.Random) -> Problem:
    """Return ten operations of + − × one after the other, modulo 7, each with what is reached so far."""
    value = draw.randrange(MODULUS)
    question, steps = str(value), ""
    for _ in range(OPERATIONS):
        operation, operand = draw.choice("+-*"), draw.randrange(1, MODULUS)
        value = {"+": value + operand, "-": value - operand, "*": value * operand}[operation] % MODULUS
        question += f"{operation}{operand}"
        steps += f"{operation}{operand}={value}"
    return Problem(question + "=", steps + ENDS_STEPS, str(value))


def product(draw: random.Random) -> Problem:
    """Return a product of two numbers of three digits, all numbers with their least digit first.

    The steps are the products of two digits, by their places and in any order, each with the sum of those so far.
    """
    first, second = (draw.randrange(10 ** (DIGITS - 1), 10**DIGITS) for _ in range(2))
    total, steps = 0, ""
    places = [(one, other) for one in range(DIGITS) for other in range(DIGITS)]
    draw.shuffle(places)
    for one, other in places:
        part = (first // 10**one % 10) * (second // 10**other % 10)
        total += part * 10 ** (one + other)
        steps += f"{one}{other}:{_reversed(part, 2)}+{_reversed(total)}{ENDS_STEPS}"
    return Problem(f"{_reversed(first, DIGITS)}*{_reversed(second, DIGITS)}=", steps, _reversed(total))


def _reversed(number: int, digits: int = 2 * DIGITS) -> str:
    """Return a number with its least digit first, filled up with zeros."""
    return str(number).zfill(digits)[::-1]


KINDS: dict[str, Callable[[random.Random], Problem]] = {"chain": chain, "product": product}


def draw_problems(kind: str, count: int, seed: int, held_out: bool) -> Iterator[Problem]:
    """Yield so many problems, all held out or none of them.

    Args:
        seed: of the draws.
    """
    draw = random.Random(f"{kind} {seed}")
    while count:
        problem = KINDS[kind](draw)
        if is_held_out(problem) == held_out:
            yield problem
            count -= 1


def is_held_out(problem: Problem) -> bool:
    return xxhash.xxh3_64_intdigest(problem.question.encode(), seed=1) % HELD_OUT_ONE_IN == 0
