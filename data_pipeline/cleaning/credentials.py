"""Finds keys, tokens and passwords in a text: by their looks, and by the names they are assigned to."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

_WORD_BEFORE = r"(?<![A-Za-z0-9_-])"
_TOKENS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("AKIA", "ASIA", "ABIA", "ACCA"), r"A(?:KIA|SIA|BIA|CCA)[A-Z0-9]{16}(?![A-Za-z0-9])"),  # Amazon
    (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"gh[pousr]_[A-Za-z0-9]{36,255}"),  # GitHub
    (("github_pat_",), r"github_pat_[A-Za-z0-9_]{40,255}"),
    (("glpat-",), r"glpat-[A-Za-z0-9_-]{20,64}"),  # GitLab
    (("xox",), r"xox[abeoprs]-[A-Za-z0-9-]{10,255}"),  # Slack
    (("xapp-",), r"xapp-\d-[A-Za-z0-9-]{20,255}"),
    (("hooks.slack.com/",), r"hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9_/]{20,255}"),
    (("AIza",), r"AIza[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"),  # Google
    (("GOCSPX-",), r"GOCSPX-[A-Za-z0-9_-]{28}"),
    (("ya29.",), r"ya29\.[A-Za-z0-9_-]{20,1024}"),
    # OpenAI, Anthropic
    (("sk-",), r"sk-(?:(?:proj|svcacct|admin|ant|or)-)?(?=[A-Za-z_-]{0,64}[0-9])[A-Za-z0-9_-]{32,255}"),
    (("_live_", "_test_"), r"(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{16,255}"),  # Stripe
    (("whsec_",), r"whsec_[A-Za-z0-9]{24,64}"),
    (("hf_",), r"hf_[A-Za-z]{34}(?![A-Za-z0-9])"),  # Hugging Face
    (("npm_",), r"npm_[A-Za-z0-9]{36}(?![A-Za-z0-9])"),
    (("pypi-AgE",), r"pypi-AgE[A-Za-z0-9_-]{50,1024}"),
    (("SG.",), r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"),  # SendGrid
    (("LTAI",), r"LTAI[A-Za-z0-9]{12,22}(?![A-Za-z0-9])"),  # Alibaba
    (("AKID",), r"AKID[A-Za-z0-9]{32}(?![A-Za-z0-9])"),  # Tencent
    (("eyJ",), r"eyJ[A-Za-z0-9_-]{10,2048}\.eyJ[A-Za-z0-9_-]{10,8192}\.[A-Za-z0-9_-]{16,1024}"),  # JSON Web Token
)
_PATTERNS = tuple((markers, re.compile(_WORD_BEFORE + pattern)) for markers, pattern in _TOKENS)

_BREAK = r"(?:\s|\\n|\\r|[\"'+>|])"
_PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z0-9]{1,16} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
    rf"(?:{_BREAK}*+(?:[A-Za-z-]{{1,24}}: [^\n]{{1,200}}+|[A-Za-z0-9+/=]{{24,}}+))++"
    rf"(?:{_BREAK}*+[A-Za-z0-9+/=]*+{_BREAK}*+-----END [A-Z0-9 ]{{1,64}}-----)?"
)
"""With lines of its body: a manual that only shows where a key begins and ends has nothing to hide."""


def find_keys(text: str) -> Iterator[tuple[int, int]]:
    """Yield where keys and tokens are that can be told by how they look: of services, JSON Web Tokens, private keys."""
    if "PRIVATE KEY" in text:
        yield from (match.span() for match in _PRIVATE_KEY.finditer(text))
    for markers, pattern in _PATTERNS:
        if any(marker in text for marker in markers):
            yield from (match.span() for match in pattern.finditer(text))


_NAMES = tuple(
    "password passwd passphrase passcode pwd secret token credential bearer authorization api_key api-key apikey"
    " access_key access-key accesskey private_key auth_key account_key accountkey 密码 密碼 口令 密钥 密鑰 令牌".split()
)
_ASSIGNED = re.compile(
    r"(?:[\w.-]{0,32}[\"'`\]]{0,2}[ \t]{0,4}(?:=>|:=|==?|:|：|>(?=[^\s<>]{6,200}</)|\bis\b|为|是|“)[ \t]{0,4}"
    r"(?:(?:Bearer|Basic|Token) )?| (?=[A-Za-z0-9+/=_.~-]{20}))"
    r"(?:[bruf]{0,2}(?P<quote>[\"'`])(?P<quoted>[^\"'`\n]{6,200})(?P=quote)"
    r"|(?P<bare>(?:[^\s\"'`<>(){}\[\],;，。；、）”&]|&(?!\w{1,32}=)){6,200}+)(?![(\[{]|<(?!/)))",
    re.ASCII,
)
_IN_URL = re.compile(r"://[^\s/:@\"'<>]{0,64}:(?P<password>[^\s/@\"'<>]{3,128})@[\w.-]")


def find_passwords(text: str) -> Iterator[tuple[int, int]]:
    """Yield where values stand that are assigned to something called password, token, secret and the like, or are a
    user's in an address, and look as if chosen to be hard to guess."""
    if "://" in text and "@" in text:
        for match in _IN_URL.finditer(text):
            if _TEMPLATE.search(match["password"]) is None:
                yield match.span("password")
    lower = text.lower()
    if len(lower) != len(text):  # some capitals become two characters: places would be wrong
        lower = text
    for name in _NAMES:
        start = lower.find(name)
        while start >= 0:
            start += len(name)
            if assigned := _ASSIGNED.match(text, start):
                group = "quoted" if assigned["quote"] else "bare"
                if looks_secret(assigned[group]):
                    yield assigned.span(group)
            start = lower.find(name, start)


_TEMPLATE = re.compile(r"[\[{<(]|[$%]\w*$|^[*x.…]+$|^(?:pass(?:word|wd)?|pw|secret|token|xxx+)$", re.IGNORECASE)
_COMMON = re.compile(
    r"example|placeholder|change|your|dummy|sample|fake|redacted|undefined|password|passwd|secret|token|apikey|key"
    r"|username|x{3,}|\*{3,}|\.{3,}",
    re.IGNORECASE,
)
_NOT_SECRET = re.compile(
    r"(?:[a-z]+:/|[~.]{0,2}/|[a-z]:\\|\$[a-z_{(]|%|@|&|\\)"  # addresses, paths, variables
    r"|.*\.(?:html?|php|py|js|ts|json|ya?ml|toml|xml|md|txt|cfg|conf|ini|pem|crt|key|sh)(?:#.*)?$"  # names of files
    r"|\d{4}-\d\d?-\d\d?"  # dates
    r"|v?\d+(?:\.\d+)+",  # versions
    re.IGNORECASE,
)
_WORDLIKE = re.compile(r"[A-Z]*[a-z]*(?:[A-Z][a-z]+)*\d{0,3}|\d{4}")


def looks_secret(value: str) -> bool:
    """Say whether a value is more like a password or key than like a name, a path, a template or an example.

    It has letters and digits; three kinds of characters (small, capital, digit, other), or sixteen characters with an
    entropy of three bits each; and is not made of words with a number behind.
    """
    value = value.strip()
    if len(value) < 8 or not value.isascii() or " " in value or _NOT_SECRET.match(value):
        return False
    rest = _COMMON.sub("", value)
    if len(rest) < 6 or not any(map(str.isdigit, rest)) or not any(map(str.isalpha, rest)):
        return False
    parts = re.split(r"[^A-Za-z0-9]+", value)
    numbered = sum(any(map(str.isdigit, part)) for part in parts)
    if numbered < 3 and all(map(_WORDLIKE.fullmatch, parts)) and not re.search(r"[!@#$%^&*+=?]", value):
        return False
    kinds = sum(any(map(kind, value)) for kind in (str.islower, str.isupper, str.isdigit)) + (not value.isalnum())
    return kinds >= 3 or (len(value) >= 16 and entropy(value) >= 3)


def entropy(value: str) -> float:
    """Return Shannon's entropy of the characters of a text that isn't empty, in bits per character."""
    counts = Counter(value).values()
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts)
