"""What is right comes back as it is; what went wrong in a known way comes back as it was before."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from data_pipeline.cleaning.repair import Repair, RepairConfig, check_repair
from data_pipeline.cleaning.stage import Dropped, Kept
from data_pipeline.foundation.errors import UserError
from data_pipeline.readers.document import Document


def applied(text: str, **settings) -> Kept | Dropped:
    return Repair(RepairConfig(**settings)).apply(Document(text, "source", "key"))


def repaired(text: str, **settings) -> str:
    result = applied(text, **settings)
    assert isinstance(result, Kept)
    return result.document.text


RIGHT = {
    "curly quotes": "“Don’t,” she said — twice… and left.",
    "entities": "In HTML &amp; is &#38; and &lt;b&gt; is bold: <b>&nbsp;</b>",
    "code": 'if (a\t&& b) {\n\tprintf("\\u00e9\\n");   /* x */\n}\n\n\n  end  \n',
    "form feed": "page one\n\x0cpage two",
    "ligatures and widths": "ﬁnd ＡＢＣ １２３ ½ ² ™ Ⅷ ㎏ …",
    "French": "Ça, c’est l’été à Nîmes : « où êtes-vous ? » — déjà vu, œuvre, 12 €",
    "German": "Größe, Füße, „Anführung“, Straße; Äpfel & Öl",
    "Vietnamese": "Tiếng Việt có sáu thanh điệu: ngang, huyền, sắc, hỏi, ngã, nặng.",
    "Polish": "Zażółć gęślą jaźń",
    "Turkish": "İstanbul'da ılık bir gün, ağaçlar",
    "Icelandic capitals": "ÞÓRÐUR Á ÍSLANDI ÁTTI ÆÐI",
    "Greek": "Η γρήγορη αλεπού πηδάει",
    "Russian": "Съешь же ещё этих мягких французских булок",
    "Arabic": "مرحبا \u200f(بالعالم)\u200e مِن العربيّة",
    "Persian": "می‌خواهم کتاب‌ها را ببینم",
    "Hebrew": "שָׁלוֹם עֲלֵיכֶם",
    "Hindi": "हिन्दी में क्‍ष और श्री",
    "Thai": "ภาษา\u200bไทย\u200bไม่มีช่องว่าง",
    "Khmer": "ខ្ញុំ\u200bចូលចិត្ត",
    "Chinese": "你好，世界！《红楼梦》：“满纸荒唐言，一把辛酸泪。”……",
    "traditional Chinese": "絕小漁舟葉似輕，荻篷密蓋不聞聲。",
    "Japanese": "吾輩は猫である。名前はまだ無い。ﾊﾝｶｸ",
    "Korean": "나는 고양이로소이다",
    "emoji": "👩‍👩‍👧 ❤️ 👍🏽 🏴‍☠️ ☺",
    "box drawing": "┌──┬──┐\n│ é│ ü│\n└──┴──┘",
    "mathematics": "∀ε>0 ∃δ: |x−a|<δ ⇒ |f(x)−L|<ε; ½·√2 ≠ π",
    "about mojibake": "If é looks like Ã©, the file is UTF-8 and was read as ISO-8859-1.",
    "about mojibake in Chinese": "出现“Ã©”这样的乱码时，请检查文件编码。",
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_comes_back_as_it_is(name):
    document = Document(RIGHT[name], "source", "key")
    result = Repair(RepairConfig()).apply(document)
    assert isinstance(result, Kept) and result.document is document and result.changes == {}


@given(st.text(alphabet=[chr(code) for code in (9, 10, 12, *range(32, 127))], min_size=1).filter(str.strip))
def test_ascii_is_never_changed(text):
    assert repaired(text) == text


HARD = st.sampled_from(
    ["\r", "\x1b[m", "\x08", "\x80", "\xad", "\u200b", "Â", "Ã", "â€¨", "A\u0303", "À\x8d", "ก", "ی", "é"]
)


@given(st.one_of(st.text(min_size=1), st.lists(HARD, min_size=1).map("".join)))
@example("\xadÂ\x80")
def test_nothing_is_left_to_repair(text):
    first = applied(text, maximum_control_characters=None)
    if isinstance(first, Kept):
        assert applied(first.document.text, maximum_control_characters=None) == Kept(first.document)
        assert unicodedata.is_normalized("NFC", first.document.text)


MISREAD = [
    ("Ça, c’est l’été à Nîmes", "cp1252"),
    ("l’été “à Nîmes” — déjà", "latin-1"),
    ("Größe, Füße und „Anführung“", "cp1252"),
    ("Größe und Füße", "cp437"),
    ("naïve café", "mac-roman"),
    ("Привет, мир", "cp1252"),
    ("你好，世界，这是中文。", "latin-1"),
    ("吾輩は猫である", "latin-1"),
    ("Žluťoučký kůň", "latin-1"),
]


@pytest.mark.parametrize(("text", "encoding"), MISREAD)
def test_utf8_read_as_something_else_is_undone_line_by_line(text, encoding):
    wrong = text.encode().decode(encoding)
    page = f"plain line\n{wrong}\n“right” line, ½"
    result = applied(page)
    assert isinstance(result, Kept)
    assert result.document.text == f"plain line\n{text}\n“right” line, ½"
    assert result.changes == {"mojibake_lines": 1}


def test_text_that_was_misread_twice_is_undone():
    assert repaired("l’été à Nîmes".encode().decode("latin-1").encode().decode("latin-1")) == "l’été à Nîmes"


def test_repairing_encodings_and_normalising_can_be_switched_off():
    assert repaired("Ã©tÃ©") == "été"
    assert repaired("Ã©tÃ©", mojibake=False) == "Ã©tÃ©"
    assert repaired("e\u0301", normalise=False) == "e\u0301"


@pytest.mark.parametrize(
    ("text", "expected", "changes"),
    [
        ("a\r\nb\rc\nd\u2028e", "a\nb\nc\nd\ne", {"line_ends": 3}),
        ("\ufeffstart mid\ufeffdle", "start middle", {"invisible_characters": 2}),
        (
            "zero\u200bwidth 中\u200b文 soft\xadhyphen a\u200db",
            "zerowidth 中文 softhyphen ab",
            {"invisible_characters": 4},
        ),
        ("left\u200eright \u202a(no Hebrew)\u202c", "leftright (no Hebrew)", {"invisible_characters": 3}),
        ("\x1b[31;1mred\x1b[0m \x1b]0;title\x07text\x1b(B", "red text", {"terminal_escapes": 4}),
        ("N\x08NA\x08AM\x08ME\x08E and _\x08u", "NAME and u", {"terminal_escapes": 5}),
        ("be\x07ep \x7f" + "x" * 300, "beep " + "x" * 300, {"control_characters": 2}),
        ("cafe\u0301\nA\u030angstro\u0308m\nplain", "café\nÅngström\nplain", {"normalised_lines": 2}),
    ],
)
def test_debris_is_removed_and_counted_by_kind(text, expected, changes):
    result = applied(text)
    assert isinstance(result, Kept)
    assert result.document.text == expected
    assert result.changes == changes


def test_what_is_no_text_is_dropped():
    noise = bytes(range(256)).decode("latin-1") * 4
    assert applied(noise) == Dropped("binary")
    assert isinstance(applied(noise, maximum_control_characters=None), Kept)
    assert applied("\ufeff\r\n\x00 \u200b", maximum_control_characters=None) == Dropped("empty")


def test_a_share_above_one_is_refused():
    with pytest.raises(UserError, match=r"cleaning\.repair\.maximum_control_characters=2"):
        check_repair(RepairConfig(maximum_control_characters=2))
