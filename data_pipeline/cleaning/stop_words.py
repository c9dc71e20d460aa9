"""The words that a text hardly does without, by script: a text with none of them is no prose.

A script serves several languages, so that their lists are taken together; words that are short or mean something else
in English are left out. English has the eight of Rae et al. 2021 (Gopher).
"""

from __future__ import annotations

STOP_WORDS = frozenset(
    """
    the be to of and that have with
    der und das ist nicht mit von auch  et est les une dans que pour pas  el los las por con del una como
    os uma não com para mais são  il di che non della sono per  het een van niet zijn voor  og det er på som ikke
    och att är inte för  ja ei että oli se  nie się jest że jak  že jsou nebo také  hogy és nem az egy
    ve bir bu için ile  și nu este din care  dan yang untuk dengan ini  và là của không được  na ya wa kwa ni
    και το να της για του με  и в не на что это как по  і та що не є  и на е за се
    של את לא על זה גם עם  في من على أن إلى التي هذا  و در به از که این را  کے میں ہے کی اور
    के में है और की को से यह
    的 是 在 了 不 和 有 这 這 我 他 也 就 人 上 个 個 之 其 而 以 者 为 為 于 於 无 無
    の に は を た が で て と し れ さ
    """.split()
)
"""Units: words as they stand between spaces, in lower case; characters of Chinese, modern and classical, and kana."""

STOP_RUNS = (
    *("는 ", "은 ", "을 ", "를 ", "에 ", "의 ", "이 ", "가 ", "다."),
    *("ที่", "และ", "ใน", "เป็น", "มี", "ได้", "ของ", "ไม่", "ให้"),
    *("ແລະ", "ຂອງ", "ໃນ", "ທີ່", "ເປັນ"),
    *("និង", "ជា", "នៅ", "ដែល", "មាន"),
    *("သည်", "နှင့်", "ကို", "များ", "မှာ"),
)
"""Parts of words, Korean, and words of several units, Thai, Lao, Khmer and Burmese, as they stand in the text."""

SCRIPTS_WITH_STOP_WORDS = (
    *((0x41, 0x24F), (0x1E00, 0x1EFF)),  # Latin
    *((0x370, 0x3FF), (0x400, 0x52F), (0x590, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F)),  # Greek … Devanagari
    *((0xE00, 0xEFF), (0x1000, 0x109F), (0x1780, 0x17FF)),  # Thai, Lao, Burmese, Khmer
    *((0x3041, 0x30FF), (0x3400, 0x9FFF), (0xAC00, 0xD7AF), (0x20000, 0x3FFFF)),  # kana, Han, Hangul
)
"""First and last code points of the scripts that the lists are of."""
