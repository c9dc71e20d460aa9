import pytest

from data_pipeline.cleaning.language import Language, LanguageConfig, check_language, identify, known_languages
from data_pipeline.cleaning.stage import Dropped, Kept
from data_pipeline.foundation.errors import UserError
from data_pipeline.readers.document import Document

TEXTS = {
    "en": "The bridge was opened again on Monday, nine months after a barge had damaged two of its girders.",
    "de": "Die Brücke wurde am Montag wieder geöffnet, neun Monate nachdem ein Schiff sie beschädigt hatte.",
    "fr": "Le pont a été rouvert lundi, neuf mois après qu’une péniche eut endommagé deux de ses poutres.",
    "es": "El puente se abrió de nuevo el lunes, nueve meses después de que una barcaza dañara dos de sus vigas.",
    "ru": "Мост снова открыли в понедельник, через девять месяцев после того, как баржа повредила две балки.",
    "ar": "أعيد فتح الجسر أمام حركة المرور يوم الاثنين بعد تسعة أشهر من اصطدام سفينة به.",
    "ja": "はしけが橋桁を壊してから九か月後の月曜日、橋は再び通れるようになりました。",
    "ko": "바지선이 다리의 들보 두 개를 손상시킨 지 아홉 달 만인 월요일에 다리가 다시 개통되었다.",
    "zh": "货船撞弯大桥两根主梁九个月之后，大桥于星期一恢复通车，首日车流平稳，没有发生拥堵。",
}
CLASSICAL = (
    "白石山在城北三十里，山勢不高，而石色皎然，遠望如積雪。是日天晴，與友人三四輩攜酒而往。過溪橋，入松林，忘其遠近。"
)


def applied(text: str, **settings) -> Kept | Dropped:
    (result,) = Language(LanguageConfig(**settings)).apply_all([Document(text, "source", "key")])
    return result


def language_of(text: str, **settings) -> str | None:
    result = applied(text, **settings)
    assert isinstance(result, Kept)
    return result.document.language


@pytest.mark.parametrize("language", TEXTS)
def test_the_language_is_set_and_nothing_else(language):
    text = TEXTS[language]
    assert applied(text) == Kept(Document(text, "source", "key", language=language))


def test_classical_chinese_is_chinese():
    assert language_of(CLASSICAL) == "zh"
    assert not {"yue", "wuu"} & known_languages()


def test_a_confidence_is_a_probability():
    assert all(0 < confidence <= 1.0001 for _, confidence in identify([*TEXTS.values(), "", "0 1 2", "x"]))


def test_other_languages_are_dropped():
    kept = [language for language, text in TEXTS.items() if isinstance(applied(text, keep=["en", "zh"]), Kept)]
    assert kept == ["en", "zh"]
    assert applied(TEXTS["de"], keep=["en", "zh"]) == Dropped("other_language")


def test_what_may_be_anything_is_uncertain():
    assert applied("12 34 56 78", minimum_confidence=0.65) == Dropped("uncertain_language")
    assert isinstance(applied(TEXTS["fr"] * 3, minimum_confidence=0.65), Kept)


def test_a_licence_in_front_does_not_decide():
    licence = "Permission is granted to copy, distribute and modify this document under the terms of the licence. " * 40
    text = licence + (TEXTS["zh"] + "\n") * 400
    assert language_of(text, characters=2_000) == "zh"
    assert identify([text[:2_000]])[0][0] == "en"


def test_white_space_is_not_looked_at():
    assert language_of(" \n\t" * 50_000 + TEXTS["de"] + " " * 50_000, characters=200) == "de"


def test_only_as_much_as_asked_for_is_looked_at(monkeypatch):
    seen = []
    monkeypatch.setattr("data_pipeline.cleaning.language.identify", lambda texts: seen.extend(texts) or [("en", 1.0)])
    language_of("word " * 100_000, characters=2_000)
    assert 2_000 <= len(seen[0]) < 2_100


def test_settings_that_can_not_be_meant_are_refused():
    check_language(LanguageConfig(enabled=True, keep=["en", "zh"], minimum_confidence=0.5))
    for config, message in (
        (LanguageConfig(enabled=True, keep=["english"]), r"keep: english is no language .* en "),
        (LanguageConfig(minimum_confidence=65), "minimum_confidence=65"),
        (LanguageConfig(characters=0), "characters=0"),
    ):
        with pytest.raises(UserError, match=message):
            check_language(config)
