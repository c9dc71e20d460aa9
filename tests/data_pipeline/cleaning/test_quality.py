"""Each rule by a text that breaks it and no rule before it; and texts of many scripts that break none."""

import json
from pathlib import Path

import pytest

from data_pipeline.cleaning.quality import Measures, Quality, QualityConfig, check_quality
from data_pipeline.cleaning.stage import Dropped, Kept
from data_pipeline.foundation.errors import UserError
from data_pipeline.readers.document import Document

PROSE = json.loads(Path(__file__).with_name("prose.json").read_text("utf-8"))
ENGLISH, CHINESE = PROSE["English"], PROSE["Chinese"]
CODE = '''import mmap


def pages(path: str, size: int = 4096):
    """Yield the pages of a file that start with a low byte."""
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        view = memoryview(mapped)
        for start in range(0, len(view), size):
            page = view[start : start + size]
            if page[0] < 128 and page[1] > 3:
                yield page
            else:
                continue
'''
POEM = "漁舟\n楊萬里\n絕小漁舟葉似輕，荻篷密蓋不聞聲。\n無人無釣無蓑笠，風自吹船船自行。"

LENIENT = dict.fromkeys(("maximum_words", "maximum_bullet_lines", "minimum_stop_words", "minimum_punctuated_lines")) | {
    "maximum_short_lines": None,
    "minimum_words": 10,
    "minimum_alphabetic_words": 0.4,
    "maximum_duplicate_lines": 0.65,
    "maximum_duplicate_line_characters": 0.5,
    "maximum_word_length": 15,
}


def applied(text: str, **settings) -> Kept | Dropped:
    return Quality(QualityConfig(**settings)).apply(Document(text, "source", "key"))


@pytest.mark.parametrize("language", PROSE)
def test_prose_of_any_script_passes_the_published_rules(language):
    document = Document(PROSE[language], "source", "key")
    assert Quality(QualityConfig()).apply(document) == Kept(document)


@pytest.mark.parametrize("text", [CODE, POEM])
def test_code_and_poems_pass_only_with_lenient_thresholds(text):
    assert isinstance(applied(text), Dropped)
    assert isinstance(applied(text, **LENIENT), Kept)


def numbered(count: int, line: str) -> str:
    """Lines that differ in one word, each time another."""
    return "\n".join(line.replace("X", "".join(chr(97 + int(digit)) for digit in f"{n:03}")) for n in range(count))


def flat(text: str) -> str:
    return " ".join(text.split())


SENTENCES = [sentence + "." for sentence in flat(ENGLISH).rstrip(".").split(". ")]
BREAKING = {
    "too_few_words": ("The bridge was opened again on Monday and that is all.", "minimum_words"),
    "too_many_words": (
        numbered(300, "We have counted the X of it, and all that goes with X to be sure."),
        "maximum_words",
    ),
    "short_words": (" ".join("a b to of c d e f it g" for _ in range(8)), "minimum_word_length"),
    "long_words": (ENGLISH + " the_name_of_something_that_nobody_would_say" * 15, "maximum_word_length"),
    "hashes": (ENGLISH.replace("the", "#the#").replace("a", "a #"), "maximum_hashes"),
    "ellipses": (ENGLISH.replace(" a", "... a").replace(" t", "… t"), "maximum_ellipses"),
    "few_alphabetic_words": (ENGLISH + " 12 345 6,789 = + -" * 8, "minimum_alphabetic_words"),
    "few_stop_words": ("Bridge harbour lorry girder weekend lock office vehicle. " * 8, "minimum_stop_words"),
    "bullet_lines": ("\n".join("• " + sentence for sentence in SENTENCES), "maximum_bullet_lines"),
    "ellipsis_lines": ("\n".join(sentence + " …" for sentence in SENTENCES), "maximum_ellipsis_lines"),
    "unpunctuated_lines": ("\n".join(sentence[:-1] for sentence in SENTENCES), "minimum_punctuated_lines"),
    "short_lines": (numbered(20, "Of that and the X too."), "maximum_short_lines"),
    "duplicate_lines": ("\n".join([SENTENCES[0], SENTENCES[1], SENTENCES[0]]) + "\n" + SENTENCES[2], None),
    "duplicate_paragraphs": ("\n\n".join(f"Of the\n{part}\nand {part[:9]}." for part in ("one", "two", "one")), None),
    "top_ngram": (numbered(12, "It is the Sea of Tranquillity that X have found to be with X."), "maximum_top_ngrams"),
    "duplicate_ngrams": (
        " ".join(SENTENCES[:3]) + "\n" + "So: " + SENTENCES[0] + "\n" + SENTENCES[3],
        "maximum_duplicate_ngrams",
    ),
    "lorem_ipsum": (ENGLISH + "\nLorem ipsum dolor sit amet.", "lorem_ipsum"),
    "curly_brace": (ENGLISH + "\nint main() { return 0; }", "curly_brace"),
}


@pytest.mark.parametrize("reason", [name for name, (_, key) in BREAKING.items() if key])
def test_a_text_that_breaks_a_rule_is_dropped_unless_the_rule_is_off(reason):
    text, key = BREAKING[reason]
    settings = {"curly_brace": {"curly_brace": True}, "too_many_words": {"maximum_words": 1_000}}.get(reason, {})
    assert applied(text, **settings) == Dropped(reason)
    off = False if isinstance(getattr(QualityConfig(), key), bool) else None
    assert applied(text, **{key: off}) != Dropped(reason)


def test_every_reason_has_been_seen():
    assert {reason for reason, _ in Quality(QualityConfig(curly_brace=True))._rules} == set(BREAKING)


def test_a_line_that_has_occurred_before_is_a_duplicate():
    measures = Measures("one\n\ntwo\n one \nthree", 30)
    assert measures.duplicate_lines() == pytest.approx(1 / 4)
    assert measures.duplicate_line_characters() == pytest.approx(3 / 14)
    assert applied(BREAKING["duplicate_lines"][0]) == Dropped("duplicate_lines")


def test_a_paragraph_that_has_occurred_before_is_a_duplicate():
    measures = Measures("one\nA\n\ntwo\nB\n \n\none\nA", 30)
    assert measures.duplicate_paragraphs() == pytest.approx(1 / 3)
    assert measures.duplicate_paragraph_characters() == pytest.approx(5 / 15)
    repeated = "\n\n".join([ENGLISH.split("\n\n")[1]] * 2 + [ENGLISH.split("\n\n")[0]])
    settings = {"maximum_duplicate_lines": None, "maximum_duplicate_line_characters": None}
    assert applied(repeated, **settings) == Dropped("duplicate_paragraphs")


def test_chinese_is_measured_by_its_own_characters():
    measures = Measures(CHINESE, 30)
    characters = sum("\u4e00" <= character <= "\u9fff" for character in CHINESE)
    assert measures.words() == pytest.approx(0.6 * characters)
    assert measures.word_length() is None
    assert measures.alphabetic_words() == 1
    assert measures.punctuated_lines() == 1
    stop_words = measures.stop_words()
    assert stop_words is not None and stop_words >= 5
    assert Measures("短短七個字而已\n" + "這一行比八個字長得多了", 30).short_lines() == 0.5
    assert Measures("等等……等……", 30).ellipses() == pytest.approx(2 / (3 * 0.6))


def test_chinese_junk_is_dropped():
    assert applied("首页 登录 注册 下载 更多\n" * 30) == Dropped("few_stop_words")
    assert applied("我的首页 在线登录 下载 更多\n" * 30) == Dropped("unpunctuated_lines")
    assert applied(CHINESE[:40]) == Dropped("too_few_words")
    assert applied("\n".join([CHINESE] * 3)) == Dropped("duplicate_lines")
    assert applied("猫狗鸟鱼。" * 40, minimum_stop_words=None) == Dropped("top_ngram")


def test_what_has_no_meaning_in_a_script_is_not_asked():
    assert Measures(PROSE["Thai"], 30).punctuated_lines() is None
    assert Measures(PROSE["Georgian"], 30).stop_words() is None
    assert Measures("bridge harbour", 30).stop_words() == 0


def test_unwanted_lines_are_removed_and_counted():
    lines = ["Please enable JavaScript.", "This site uses cookies.", "本站使用 Cookie。", "Terms of Use"]
    first, second = ENGLISH.split("\n\n")
    page = "\n".join([lines[0], first, lines[1], "", second, lines[2], lines[3]])
    result = applied(page)
    assert isinstance(result, Kept)
    assert result.document.text == f"{first}\n\n{second}"
    assert result.changes == {"javascript_lines_removed": 1, "policy_lines_removed": 3}
    assert applied(page, remove_javascript_lines=False, remove_policy_lines=False) == Kept(
        Document(page, "source", "key")
    )
    everything_off = {key: None for key in QualityConfig.__dataclass_fields__ if key.startswith(("minimum", "maximum"))}
    assert applied("\n".join(lines), **everything_off) == Dropped("too_few_words")


@pytest.mark.parametrize("text", ["", " \n ", "。", "1", "\n\n\n", "…", "￿", "a" * 100_000])
def test_odd_texts_are_measured_too(text):
    assert isinstance(applied(text), Dropped)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"maximum_short_lines": 67}, "short_lines=67 is a share"),
        ({"minimum_words": 10, "maximum_words": 5}, "words=10 is more than maximum_words=5"),
        ({"maximum_top_ngrams": [0.2] * 4}, "at most 3 shares"),
        ({"maximum_duplicate_ngrams": [15.0]}, "ngrams=.*at most 6 shares"),
        ({"short_line": 0}, "line=0 must be at least 1"),
    ],
)
def test_thresholds_that_can_not_be_meant_are_refused(settings, message):
    with pytest.raises(UserError, match=rf"cleaning\.quality\..*{message}"):
        check_quality(QualityConfig(**settings))
