"""Documents with planted records of evaluation sets are found, however they are set; what is only like them stays."""

import csv
import gzip
import json
import re
import textwrap

import pytest
import zstandard

from data_pipeline.cleaning.decontamination import (
    Decontamination,
    DecontaminationConfig,
    EvaluationIndex,
    SetCounts,
    check_decontamination,
    read_texts,
)
from data_pipeline.cleaning.stage import Dropped, Kept
from data_pipeline.foundation.errors import UserError
from data_pipeline.readers.document import Document

QUESTION = (
    "Mara's ferry carries 48 passengers on each of its six morning trips, and half as many on each of the four trips "
    "after noon. How many passengers does the well-known ferry carry in a day?"
)
ANSWER = "She carries 48 * 6 = 288 in the morning and 24 * 4 = 96 after noon. #### 384"
SHORT = "What is the tallest lighthouse on the island of Skarn?"  # ten words
CHINESE = "玛拉的渡轮上午开六班，每班载客四十八人；下午开四班，每班载客二十四人。请问渡轮一天共载客多少人？"
CHINESE_SHORT = "斯卡恩岛上最高的灯塔是哪一座？"  # fourteen characters
FILLER = "The harbour lies on the northern shore. Boats leave it in the early morning and come back before dark."
CHINESE_FILLER = "港口位于北岸。船只清晨出港，天黑之前返回。"


@pytest.fixture
def files(tmp_path):
    path = tmp_path / "ferry.jsonl"
    path.write_text("".join(json.dumps({"question": text, "answer": ANSWER, "id": 7}) + "\n" for text in (QUESTION,)))
    other = tmp_path / "trivia.txt"
    other.write_text(f"{SHORT}\nToo short\n{CHINESE}\n{CHINESE_SHORT}\n", "utf-8")
    return {"ferry": [str(path)], "trivia": [str(other)]}


def applied(sets, text: str, **settings) -> Kept | Dropped:
    return Decontamination(DecontaminationConfig(True, sets, **settings)).apply(Document(text, "source", "key"))


WRAPPINGS = {
    "verbatim": lambda text: text,
    "in capitals": str.upper,
    "in small letters": str.lower,
    "without punctuation": lambda text: re.sub(r"[^\w\s]", "", text.replace("-", " ")),
    "with other punctuation": lambda text: (
        text.replace(",", " --").replace(".", "!").replace("'", "’").replace("-", "–")
    ),
    "wrapped": lambda text: textwrap.fill(text, 30),
    "quoted as mail": lambda text: textwrap.indent(textwrap.fill(text, 40), "> "),
    "in markup": lambda text: "**" + text.replace(" ", " _") + "**",
    "most of it": lambda text: text[: len(text) * 9 // 10],
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("record", [QUESTION, ANSWER])
def test_a_planted_record_is_found_however_it_is_set(files, record, wrapping):
    planted = f"{FILLER}\n\n{WRAPPINGS[wrapping](record)}\n\n{FILLER}"
    assert applied(files, planted) == Dropped("contaminated_ferry")


@pytest.mark.parametrize(
    "wrapping", [str, lambda text: re.sub("[，。；？]", "", text), lambda text: "\n".join(textwrap.wrap(text, 7))]
)
def test_chinese_records_are_found(files, wrapping):
    for record in (CHINESE, CHINESE_SHORT):
        planted = CHINESE_FILLER + wrapping(record) + CHINESE_FILLER
        assert applied(files, planted) == Dropped("contaminated_trivia")


def test_what_is_only_like_a_record_stays(files):
    words = QUESTION.split()
    near = [
        FILLER,
        CHINESE_FILLER,
        " ".join(words[:12]),  # one word short of an n-gram
        " ".join(word if place % 12 else "another" for place, word in enumerate(words)),
        QUESTION.replace("48", "50").replace("six", "five").replace("four", "three").replace("passengers", "people"),
        CHINESE[:18],
        "".join("船" if place % 15 == 14 else character for place, character in enumerate(CHINESE)),
        SHORT.replace("tallest", "oldest"),
        "Too short",
    ]
    for text in near:
        document = Document(f"{text}\n{FILLER}", "source", "key")
        assert Decontamination(DecontaminationConfig(True, files)).apply(document) == Kept(document)


def test_an_n_gram_is_as_long_as_set(files):
    words = QUESTION.split()
    assert isinstance(applied(files, " ".join(words[3:15])), Kept)
    assert applied(files, " ".join(words[3:16])) == Dropped("contaminated_ferry")
    assert applied(files, " ".join(words[3:15]), ngram=12) == Dropped("contaminated_ferry")
    assert isinstance(applied(files, " ".join(words[3:16]), ngram=14), Kept)


def test_as_many_matches_are_needed_as_set(files):
    words = QUESTION.split()
    for shared in (14, 15, 16):  # two, three and four n-grams
        result = applied(files, " ".join(words[:shared]), minimum_matches=3)
        assert isinstance(result, Kept if shared < 15 else Dropped)


def test_short_records_are_sought_as_a_whole(files):
    assert applied(files, f"{FILLER} {SHORT} {FILLER}") == Dropped("contaminated_trivia")
    assert isinstance(applied(files, f"{FILLER} {SHORT[:-10]} {FILLER}"), Kept)
    assert isinstance(applied(files, SHORT, minimum_ngram=11), Kept)


def test_sets_are_counted(files):
    index = EvaluationIndex(DecontaminationConfig(True, files))
    assert index.counts == {"ferry": SetCounts(2, 0, 0), "trivia": SetCounts(4, 2, 1)}
    assert index.matches(QUESTION)["ferry"] == len(QUESTION.replace("-", " ").split()) - 12
    assert index.matches(f"{SHORT} {SHORT}")["trivia"] == 2


def test_no_n_gram_reaches_from_one_record_into_the_next(tmp_path):
    path = tmp_path / "halves.txt"
    words = QUESTION.split()
    path.write_text(" ".join(words[:7]) + "\n" + " ".join(words[7:14]) + "\n")
    assert isinstance(applied({"halves": [str(path)]}, QUESTION), Kept)


def test_the_first_set_is_named(files):
    assert applied(files, f"{QUESTION} {SHORT}") == Dropped("contaminated_ferry")
    assert applied(dict(reversed(files.items())), f"{QUESTION} {SHORT}") == Dropped("contaminated_trivia")
    assert applied({"one": files["ferry"], "two": files["ferry"]}, QUESTION) == Dropped("contaminated_one")


RECORDS = [{"question": QUESTION, "options": ["A) 384", {"text": SHORT}], "id": 3}, {"question": "Ja?", "answer": None}]
TEXTS = [QUESTION, "A) 384", SHORT, "Ja?"]


def write_table(path, **style):
    with path.open("w", newline="") as file:
        csv.writer(file, **style).writerows([["question", "label"], [QUESTION, "1"], ['say "ah"', "0"]])


def test_every_kind_of_file_is_read(tmp_path):
    lines = "\n".join(json.dumps(record) for record in RECORDS)
    contents = {
        "a.jsonl": lines.encode(),
        "a.jsonl.gz": gzip.compress(lines.encode()),
        "a.jsonl.zst": zstandard.compress(lines.encode()),
        "bom.jsonl": b"\xef\xbb\xbf" + lines.encode(),
        "list.json": json.dumps(RECORDS).encode(),
        "nested.json": json.dumps({"split": "test", "data": RECORDS}).encode(),
        "lines.json": lines.encode(),
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        assert list(read_texts(tmp_path / name)) == (["test"] if name == "nested.json" else []) + TEXTS
        assert list(read_texts(tmp_path / name, ["question"])) == [QUESTION, "Ja?"]
        assert list(read_texts(tmp_path / name, ["options"])) == ["A) 384", SHORT]
    write_table(tmp_path / "a.csv")
    assert list(read_texts(tmp_path / "a.csv")) == ["question", "label", QUESTION, "1", 'say "ah"', "0"]
    (tmp_path / "a.tsv").write_text(f'question\tlabel\n{QUESTION}\t1\nsay "ah\t0\n')
    assert list(read_texts(tmp_path / "a.tsv", ["question"])) == [QUESTION, 'say "ah']


@pytest.mark.parametrize(
    ("name", "content", "fields", "message"),
    [
        ("a.jsonl", b'{"a": "x"}\n{"a": \n', [], r"a\.jsonl is no \.jsonl file that can be read"),
        ("a.json", b"{", [], r"a\.json is no \.json file"),
        ("a.json", b"[" * 100_000, [], r"a\.json is no \.json file"),
        ("a.txt", b"\xff\xfe\x00", [], r"a\.txt is no \.txt file .*utf-8"),
        ("a.jsonl.gz", b"no gzip", [], r"a\.jsonl\.gz can't be read"),
        ("a.jsonl", b'{"a": "x"}\n', ["question"], r"a\.jsonl has no text in the fields question"),
        ("a.txt", b"text", ["question"], r"a \.txt file has no fields"),
        ("a.csv", b"a,b\n1,2\n", ["question"], r"a\.csv has no text in the fields question"),
    ],
)
def test_a_file_that_can_not_be_read_is_named(tmp_path, name, content, fields, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(read_texts(tmp_path / name, fields))


def test_settings_that_can_not_be_meant_are_refused(files, tmp_path):
    check_decontamination(DecontaminationConfig(True, files))
    (tmp_path / "a.pdf").write_bytes(b"")
    for settings, message in (
        ({"ngram": 1}, "ngram=1"),
        ({"minimum_ngram": 14}, "minimum_ngram=14 must lie between 1 and ngram=13"),
        ({"minimum_matches": 0}, "minimum_matches=0"),
        ({"sets": {"a b": []}}, "`a b` must be a name"),
        ({"sets": {"a": []}}, r"sets\.a names no file"),
        ({"sets": {"a": [str(tmp_path / "b.jsonl")]}}, "there is no file"),
        ({"sets": {"a": [str(tmp_path / "a.pdf")]}}, r"what kind of file .*\.jsonl, \.json, \.txt, \.csv, \.tsv"),
    ):
        with pytest.raises(UserError, match=rf"cleaning\.decontamination.*{message}"):
            check_decontamination(DecontaminationConfig(**settings))
