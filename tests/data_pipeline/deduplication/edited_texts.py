"""Texts with edited copies, in English-like words and in Chinese characters, to find nearly equal ones among."""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

SYLLABLES = [a + b for a in "bdfghjklmnprstvwxz" for b in "ao"]
SENTENCE = 12


@dataclass(frozen=True)
class Script:
    """Tokens that texts are made of, the first ones the most frequent, and what stands between them."""

    tokens: list[str]
    space: str
    stop: str

    def draw(self, chance: random.Random, count: int) -> list[str]:
        return [self.tokens[int(len(self.tokens) * chance.random() ** 2.5)] for _ in range(count)]

    def write(self, tokens: list[str]) -> str:
        sentences = [tokens[start : start + SENTENCE] for start in range(0, len(tokens), SENTENCE)]
        return "\n".join(self.space.join(sentence).capitalize() + self.stop for sentence in sentences)


ENGLISH = Script([a + b for a in SYLLABLES for b in SYLLABLES], " ", ".")
CHINESE = Script([chr(code_point) for code_point in range(0x4E00, 0x4E00 + 3000)], "", "。")

Edit = Callable[[random.Random, Script, list[str], float], list[str]]


def substitute(chance: random.Random, script: Script, tokens: list[str], strength: float) -> list[str]:
    return [script.draw(chance, 1)[0] if chance.random() < strength / 8 else token for token in tokens]


def insert(chance: random.Random, script: Script, tokens: list[str], strength: float) -> list[str]:
    place = chance.randrange(len(tokens))
    return tokens[:place] + script.draw(chance, int(len(tokens) * strength / 2)) + tokens[place:]


def truncate(chance: random.Random, script: Script, tokens: list[str], strength: float) -> list[str]:
    return tokens[: max(1, int(len(tokens) * (1 - strength / 2)))]


def reorder(chance: random.Random, script: Script, tokens: list[str], strength: float) -> list[str]:
    size = max(5, int(SENTENCE * (1.2 - strength) * 3))
    paragraphs = [tokens[start : start + size] for start in range(0, len(tokens), size)]
    chance.shuffle(paragraphs)
    return [token for paragraph in paragraphs for token in paragraph]


EDITS: tuple[Edit, ...] = (substitute, insert, truncate, reorder)


def texts_with_edited_copies(script: Script, originals: int, seed: int) -> list[str]:
    """Return texts of 20 to 600 tokens, each followed by a copy for every kind of edit, of all strengths."""
    chance = random.Random(seed)
    texts = []
    for _ in range(originals):
        tokens = script.draw(chance, chance.choice((20, 60, 150, 300, 600)))
        texts.append(script.write(tokens))
        texts += [script.write(edit(chance, script, tokens, chance.random())) for edit in EDITS]
    return texts


def same_to_a_reader(text: str) -> str:
    """Return the text with other bytes: decomposed characters, white space where nobody sees it."""
    return "\n" + unicodedata.normalize("NFD", text).replace("\n", " \t\r\n") + " \n\n"
