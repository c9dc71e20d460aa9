"""The text that a proof compares models on: several languages, code, numbers, and blanks in awkward places."""

PASSAGE = """\
Four score and seven years ago our fathers brought forth on this continent, a new nation, conceived in Liberty, and
dedicated to the proposition that all men are created equal. Now we are engaged in a great civil war, testing whether
that nation, or any nation so conceived and so dedicated, can long endure.

Alle Menschen sind frei und gleich an Würde und Rechten geboren. Tous les êtres humains naissent libres et égaux en
dignité et en droits. 人人生而自由，在尊严和权利上一律平等。 Все люди рождаются свободными и равными в своём
достоинстве и правах.
يولد جميع الناس أحراراً متساوين في الكرامة والحقوق.
すべての人間は、生れながらにして自由であり、かつ、尊厳と権利とについて平等である。

def fibonacci(n: int) -> int:
\tfirst, second = 0, 1
\tfor _ in range(n):
\t\tfirst, second = second, first + second
    # 12345 + 67890 == 80235;  3.14159, 1e-9, 0xFF, 2024-02-29
\treturn first   


It's the reader's, isn't it?  "WE'LL SEE," they'd said…  E = mc² → 🚣🏽‍♀️ naïve café ½ ①   end.
"""
