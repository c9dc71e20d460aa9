"""Masking, by a sample of texts in English and Chinese with labels of what is private in them."""

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.cleaning.personal_numbers import is_card, is_iban, is_resident_id
from data_pipeline.cleaning.privacy import Placeholders, Privacy, PrivacyConfig, mask
from data_pipeline.cleaning.stage import Kept
from data_pipeline.readers.document import Document

LABEL = re.compile(r"⟦(\w+)\|(.*?)⟧", re.DOTALL)
KINDS = list(Placeholders.__dataclass_fields__)


def read_samples() -> list[str]:
    lines = Path(__file__).with_name("private_samples.txt").read_text("utf-8").split("\n")
    return [
        re.sub(r"\\(\\?)n", lambda match: "\\n" if match[1] else "\n", line.replace("¦", ""))
        for line in lines
        if line and not line.startswith("%%")
    ]


SAMPLES = read_samples()
FLOORS = {kind: (0.97, 0.96) for kind in KINDS} | {"card": (0.96, 0.96)}
"""Precision and recall, at least."""


def without_labels(sample: str) -> str:
    return LABEL.sub(lambda match: match[2], sample)


def found_in(text: str) -> Counter[tuple[str, str]]:
    """Return kinds and texts of what is masked, found by what is missing from the masked text."""
    masked, _ = mask(text, PrivacyConfig(placeholders=Placeholders(**{kind: f"\0{kind}\0" for kind in KINDS})))
    parts = re.split("\0([a-z_]+)\0", masked)
    pattern = "(.+?)".join(re.escape(part) for part in parts[::2])
    match = re.fullmatch(pattern, text, re.DOTALL)
    assert match is not None
    return Counter(zip(parts[1::2], match.groups()))


def test_the_sample_is_large_and_tricky():
    labels = Counter(kind for sample in SAMPLES for kind, _ in LABEL.findall(sample))
    assert labels.total() >= 300 and set(labels) == set(KINDS) and min(labels.values()) >= 12
    assert sum(not LABEL.search(sample) for sample in SAMPLES) >= 400


def test_precision_and_recall_of_every_kind():
    right, found, private = Counter(), Counter(), Counter()
    mistakes = []
    for sample in SAMPLES:
        expected = Counter(LABEL.findall(sample))
        masked = found_in(without_labels(sample))
        right.update(kind for kind, _ in (expected & masked).elements())
        found.update(kind for kind, _ in masked.elements())
        private.update(kind for kind, _ in expected.elements())
        mistakes += [f"{kind}: {text} in {sample}" for kind, text in ((expected | masked) - (expected & masked))]
    for kind in KINDS:
        precision, recall = right[kind] / found[kind], right[kind] / private[kind]
        assert precision >= FLOORS[kind][0] and recall >= FLOORS[kind][1], (kind, precision, recall, mistakes)


def test_what_is_masked_is_counted_by_kind():
    text = "Mail a@b.com or c@d.org, call (415) 555-2671.\n身份证号 11010519491231002X"
    masked, counts = mask(text)
    assert masked == "Mail [EMAIL] or [EMAIL], call [PHONE].\n身份证号 [RESIDENT_ID]"
    assert counts == {"email": 2, "phone": 1, "resident_id": 1}
    assert mask("nothing to hide, 1 + 1 = 2") == ("nothing to hide, 1 + 1 = 2", {})


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_can_be_left_and_renamed(kind):
    sample = next(sample for sample in SAMPLES if [found for found, _ in LABEL.findall(sample)] == [kind])
    text = without_labels(sample)
    assert kind not in mask(text, PrivacyConfig(placeholders=Placeholders(**{kind: None})))[1]
    renamed = mask(text, PrivacyConfig(placeholders=Placeholders(**{kind: "<gone>"})))[0]
    assert renamed == LABEL.sub("<gone>", sample)


def test_masked_text_has_nothing_to_mask():
    for sample in SAMPLES:
        masked, _ = mask(without_labels(sample))
        assert mask(masked) == (masked, {})


def test_private_addresses_are_masked_only_if_asked_for():
    text = "10.0.0.17, 192.168.1.20, fe80::1ff:fe23:4567:890a and fd12:3456:789a::1, not 127.0.0.1 nor ::1"
    assert mask(text) == (text, {})
    masked, counts = mask(text, PrivacyConfig(private_addresses=True))
    assert masked == ", ".join(["[IP_ADDRESS]"] * 2) + ", [IP_ADDRESS] and [IP_ADDRESS], not 127.0.0.1 nor ::1"
    assert counts == {"ip_address": 4}


def test_a_document_is_masked_or_comes_back_as_it_is():
    stage = Privacy(PrivacyConfig())
    plain = Document("nothing to hide", "source", "key", language="en")
    result = stage.apply(plain)
    assert result == Kept(plain) and result.document is plain
    assert stage.apply(Document("to a@b.com", "source", "key", language="en")) == Kept(
        Document("to [EMAIL]", "source", "key", language="en"), {"email": 1}
    )


def test_checksums_find_every_wrong_digit():
    for check, number in (
        (is_resident_id, "11010519491231002X"),
        (is_card, "4012888888881881"),
        (is_iban, "GB82WEST12345698765432"),
    ):
        assert check(number)
        for place, digit in enumerate(number):
            if digit.isdigit():
                assert not check(number[:place] + str((int(digit) + 1) % 10) + number[place + 1 :])


@given(st.text(alphabet="a1@.:-+ /=密\"'(p", max_size=80))
def test_any_text_can_be_masked(text):
    masked, counts = mask(text)
    assert (masked == text) == (not counts)


MEGABYTE = 1_000_000
ADVERSARIAL = [
    *("1", "a", ".", "@", "=", "A", " ", "\n", ":"),
    *("+1", "+1 ", "1 ", "1-", "(4", "1.1.", "1.2.3.4 ", "a@", "a.", "a@a.", "://", "://a:b", "DE89", "GB82 ", "4111 "),
    *("2001:", "2001:db00:1:", "eyJ", "sk-", "sk-a-", "xoxb-", "ghp_", "0086 "),
    *("password", 'password="', "token ", "secret: Aa1-", "密码：", "-----BEGIN PRIVATE KEY-----"),
    *("-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n", "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\n"),
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", ADVERSARIAL)
def test_no_megabyte_takes_long(piece):
    text = piece * (MEGABYTE // len(piece))
    masked, counts = mask(text)
    assert (masked == text) == (not counts)
