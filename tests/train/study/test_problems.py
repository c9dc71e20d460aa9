"""Problems of arithmetic are right, in their steps too, and those of the test are never trained on."""

from __future__ import annotations

import random
import re

import pytest

from train.study.problems import DIGITS, KINDS, MODULUS, OPERATIONS, chain, draw_problems, is_held_out, product


def test_every_step_of_a_chain_is_what_python_computes():
    for seed in range(200):
        problem = chain(random.Random(seed))
        value = int(problem.question[0])
        operations = re.findall(r"([-+*])(\d)=(\d)", problem.steps)
        assert len(operations) == OPERATIONS
        assert problem.question == str(value) + "".join(a + b for a, b, _ in operations) + "="
        for operation, operand, reached in operations:
            value = eval(f"({value}{operation}{operand}) % {MODULUS}")
            assert int(reached) == value
        assert problem.answer == str(value)


def test_partial_products_add_up_in_any_order():
    orders = set()
    for seed in range(200):
        problem = product(random.Random(seed))
        first, second = (int(text[::-1]) for text in problem.question[:-1].split("*"))
        parts = re.findall(r"(\d)(\d):(\d+)\+(\d+);", problem.steps)
        orders.add(tuple(part[:2] for part in parts))
        total = 0
        for one, other, part, so_far in parts:
            assert int(part[::-1]) == (first // 10 ** int(one) % 10) * (second // 10 ** int(other) % 10)
            total += int(part[::-1]) * 10 ** (int(one) + int(other))
            assert int(so_far[::-1]) == total
        assert int(problem.answer[::-1]) == first * second == total
    assert len(orders) > 190 and all(len(set(order)) == DIGITS**2 == 9 for order in orders)


@pytest.mark.parametrize("kind", KINDS)
def test_no_problem_of_the_test_is_trained_on(kind):
    trained = {problem.question for problem in draw_problems(kind, 3000, 0, held_out=False)}
    tested = list(draw_problems(kind, 300, 1, held_out=True))
    assert all(map(is_held_out, tested))
    assert trained.isdisjoint(problem.question for problem in tested)
    assert list(draw_problems(kind, 300, 1, held_out=True)) == tested


def test_a_sample_ends_with_its_answer_with_the_steps_and_without():
    problem = chain(random.Random(5))
    assert problem.sample(False) == {"prompt": problem.question, "completion": problem.answer}
    assert problem.sample(True)["completion"] == problem.steps + problem.answer
