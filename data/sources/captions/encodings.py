"""Detection of text encodings. UTF-8 and UTF-16 are detected reliably, with or without a byte order
mark, and so is ISO-2022; other encodings are guessed, and the guess is reported.

A few damaged bytes do not make another encoding of UTF-8: they are read as cp1252, alone."""

import codecs
import re
from collections.abc import Iterable, Sequence
from unicodedata import category
from unicodedata import name as unicode_name

import numpy as np

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]+")
_PAIR = re.compile(rb"\xed[\xa0-\xaf][\x80-\xbf]\xed[\xb0-\xbf][\x80-\xbf]")
"""A letter beyond U+FFFF as databases write it: both halves of its UTF-16 as letters of UTF-8."""
_LETTERS = re.compile(
    rb"(?:%b|[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3})+"
    % _PAIR.pattern
)
"""Letters of UTF-8 beyond ASCII, one after the other."""
_CUT_LETTER = re.compile(rb"(?:[\xc2-\xdf]|[\xe0-\xef][\x80-\xbf]?|[\xf0-\xf4][\x80-\xbf]{0,2})\Z")
_LOOKED_AT = 1 << 20  # bytes of a long text that decide
MENDED = "utf-8, with some damaged letters"
MENDS = "pastel_damaged_utf8"
"""How damaged letters of UTF-8 are decoded, an argument `errors` of Python's decoders."""
_CONTROLS = re.compile("[\0-\x08\x0b\x0e-\x1f\x7f]")
_LATIN = bytes({*range(0xC0, 0x100)} - {0xD7, 0xF7}) + "’‘“”–—…€£°½¼²³©®™«»¡¿ŠšŽžŒœŸ".encode(
    "cp1252"
)
_ENCODINGS = (
    *("cp1252", "gb18030", "big5", "cp932", "euc_jp", "cp949", "cp1251", "cp1253", "cp1255"),
    *("cp1256", "koi8_r"),
)
"""Guesses for captions that are not UTF-8. A few words do not distinguish Central Europe's cp1250
from cp1252: it must be named."""
_ONE_BYTE = ("cp1252", "cp1251", "cp1253", "cp1255", "cp1256", "koi8_r")
_KOREAN = (0xB0, 0xC9)  # first bytes of syllables in EUC-KR
_CHINESE = (0xB0, 0xD8)  # first bytes of the frequent characters in GB 2312


_PLAIN = np.array([32 <= byte < 127 or byte in b"\t\r\n" for byte in range(256)])


def decode(data: bytes, encoding: str = "") -> tuple[str, str]:
    """(text, name of the encoding if it is not UTF-8).

    `encoding` is used for bytes that are neither UTF-8 nor detected as UTF-16; without one it is
    guessed from these bytes.
    """
    text, name = _decoded(data, encoding)
    return text.replace("\ufeff", ""), name  # joined files have byte order marks within


def _decoded(data: bytes, encoding: str) -> tuple[str, str]:
    name = _certain(data)
    if not name and (not _is_wide(encoding) or (data.isascii() and not is_other_encoding(data))):
        name = "utf-8-sig"
    for known in filter(None, (name, encoding or guess([data]))):
        try:
            return data.decode(known), "" if known == "utf-8-sig" else known
        except UnicodeDecodeError:
            if _is_wide(known):  # truncated within a letter
                return data.decode(known, "replace"), known
            if known == "utf-8-sig" and is_damaged_utf8(data):
                return data.decode(known, MENDS), MENDED
    return data.decode("cp1252", "replace"), "cp1252, with undefined letters"


def is_damaged_utf8(data: bytes) -> bool:
    """True if the bytes are UTF-8 with few damages: they are an eighth of the bytes beyond ASCII or
    less, or single bytes among letters of ASCII, not more than letters of UTF-8."""
    first = _BEYOND_ASCII.search(data)
    some = data[first.start() : first.start() + _LOOKED_AT] if first else b""
    runs = _BEYOND_ASCII.findall(_CUT_LETTER.sub(b"", some))
    whole = sum(bool(_LETTERS.fullmatch(run)) for run in runs)
    if not runs or whole == len(runs):
        return bool(runs) and not _is_utf8(data)
    good = sum(len(letters) for run in runs for letters in _LETTERS.findall(run))
    single = sum(len(run) == 1 for run in runs)
    bad = sum(map(len, runs)) - good
    return good >= 8 * bad or (whole + single == len(runs) and whole >= single)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return False
    return True


def _mend(error: UnicodeError) -> tuple[str, int]:
    """The letters that damaged bytes of UTF-8 mean, and the place after them."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    data, start = error.object, error.start
    if pair := _PAIR.match(data, start):
        halves = pair[0].decode("utf-8", "surrogatepass").encode("utf-16", "surrogatepass")
        return halves.decode("utf-16"), pair.end()
    if error.end == len(data) and error.reason.startswith("unexpected end"):
        return "", error.end
    return data[start : start + 1].decode("cp1252", "replace"), start + 1


codecs.register_error(MENDS, _mend)


def _is_wide(encoding: str) -> bool:
    return encoding.lower().replace("-", "").replace("_", "").startswith(("utf16", "utf32"))


def is_other_encoding(data: bytes) -> bool:
    """True if the bytes are neither UTF-8 nor detected as UTF-16."""
    if _certain(data):
        return False
    try:
        return bool(_CONTROLS.search(data.decode("utf-8-sig")))
    except UnicodeDecodeError:
        return not is_damaged_utf8(data)


def encoding_of(head: bytes, encoding: str = "") -> str:
    """The encoding of a long text, from its beginning; `encoding` if it is neither UTF-8 nor
    UTF-16."""
    if name := _certain(head):
        return name
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return "utf-8-sig" if is_damaged_utf8(head) else encoding or guess([head])
    return "utf-8-sig"


def _certain(data: bytes) -> str:
    """UTF-16 or UTF-32 by the byte order mark; UTF-16 also by zero bytes, which no other encoding
    has, unless programs put them after texts; ISO-2022 by the sequences that begin its letters."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    if b"\x1b$" in data:
        name = "iso2022_kr" if b"\x1b$)C" in data else "iso2022_jp_2"
        return name if _begins(data, name) else ""
    if b"\0" not in data or len(data) < 4:
        return ""
    whole = data[: len(data) // 2 * 2]
    if _is_zero_padded(whole):
        return ""
    # The high byte of blanks, digits, line ends and Latin letters is zero.
    pairs = np.frombuffer(whole, np.uint8).reshape(-1, 2)
    plain = {
        "utf-16-le": int((_PLAIN[pairs[:, 0]] & (pairs[:, 1] == 0)).sum()),
        "utf-16-be": int((_PLAIN[pairs[:, 1]] & (pairs[:, 0] == 0)).sum()),
    }
    likely = sorted((name for name in plain if _is_text(whole, name)), key=lambda n: -plain[n])
    return next(iter(likely), "")


def _begins(data: bytes, encoding: str) -> bool:
    """True if the bytes are the beginning of a text in this encoding."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(data)
    except UnicodeDecodeError:
        return False
    return True


def _is_zero_padded(data: bytes) -> bool:
    """True for UTF-8 with zeros at the ends of texts: few bytes are zeros, and the others are
    UTF-8, mostly letters and spaces."""
    if 4 * data.rstrip(b"\0").count(b"\0") >= len(data):
        return False
    try:
        some = data[:_LOOKED_AT].replace(b"\0", b"")
        text = codecs.getincrementaldecoder("utf-8")().decode(some)
    except UnicodeDecodeError:
        return False
    letters = sum(letter.isalpha() or letter == " " for letter in text)
    return 5 * letters >= 3 * len(text) and not _CONTROLS.search(text)


def _pairs(data: bytes) -> Iterable[tuple[int, int]]:
    return zip(data[0::2], data[1::2], strict=False)


def _is_text(data: bytes, encoding: str) -> bool:
    """True if the bytes decode, without control characters and unassigned letters."""
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return not _CONTROLS.search(text) and not any(category(c) in ("Co", "Cn") for c in set(text))


def guess(texts: Iterable[bytes]) -> str:
    """The encoding of texts that are not UTF-8, by charset-normalizer; more texts give a better
    guess."""
    import charset_normalizer

    parts = list(texts)
    some = b"\n".join(parts)[:50_000]
    for known, is_it in _KNOWN_BY_LOOK.items():
        if is_it(some):
            return known
    if name := _wide(parts):
        return name
    likely = [name for name in _ENCODINGS if not (name == "cp932" and _is_half_width(some))]
    best = charset_normalizer.from_bytes(some, cp_isolation=likely, threshold=0.4).best()
    if best is None or some.decode("cp1252", "replace") == some.decode(best.encoding, "replace"):
        return "cp1252"
    return best.encoding


def guess_of_names(names: Sequence[bytes]) -> str:
    """The encoding of names in a zip. Besides those of texts, DOS's are tried, as Windows writes
    them there."""
    whole = b"".join(names)
    encoding = guess(names)
    if encoding not in _ONE_BYTE:
        return encoding
    for known, script in (("cp437", "LATIN"), ("cp866", "CYRILLIC")):
        letters = [letter for letter in whole.decode(known) if letter > "\x7f"]
        if all(unicode_name(letter, "").startswith(script) for letter in letters):
            return known
    return encoding


def _wide(texts: list[bytes]) -> str:
    """The variant of UTF-16 if the texts are only Chinese or Japanese characters, so that no byte
    is zero: nearly all characters are in few blocks, and no other encoding decodes to text."""
    if any(len(text) % 2 for text in texts):
        return ""
    whole = b"".join(texts)[:50_000]
    for name, start in (("utf-16-le", 1), ("utf-16-be", 0)):
        high = whole[start::2]
        usual = sum(0x4E <= byte <= 0x9F or byte in (0x30, 0xFF) for byte in high)
        if usual > 0.9 * len(high) and _is_text(whole, name):
            # Kana share a high byte; of Chinese, no other encoding may make a text.
            is_kana = high.count(0x30) > 0.2 * len(high)
            if is_kana or not any(_is_text(whole, other) for other in _ENCODINGS):
                return name
    return ""


def _is_half_width(data: bytes) -> bool:
    """True if the bytes are mostly half-width kana in cp932, as KOI8-R texts are."""
    letters = [letter for letter in data.decode("cp932", "ignore") if letter > "\x7f"]
    return 2 * sum("\uff61" <= letter < "\uffa0" for letter in letters) > len(letters)


def _is_latin(data: bytes) -> bool:
    """True if two thirds of the letters beyond ASCII are single ones between ASCII letters, like
    accents and quotation marks; other scripts have whole words of them. It decides if there are too
    few words for statistics: "café" could be "cafй"."""
    runs = _BEYOND_ASCII.findall(data)
    alone = sum(len(run) == 1 and run in _LATIN for run in runs)
    return 3 * alone >= 2 * sum(len(run) for run in runs)


def _is_japanese(encoding: str, data: bytes) -> bool:
    """True if a fifth of the letters beyond ASCII are kana; Chinese and Korean have none."""
    try:
        letters = [letter for letter in data.decode(encoding) if letter > "\x7f"]
    except UnicodeDecodeError:
        return False
    return 5 * sum("\u3040" <= letter < "\u3100" for letter in letters) > len(letters)


def _is_chinese(data: bytes) -> bool:
    """True if all bytes beyond ASCII are pairs, mostly frequent characters in GB 2312, some of
    which are not Korean syllables."""
    runs = _BEYOND_ASCII.findall(data)
    if any(len(run) % 2 for run in runs):
        return False
    pairs = [pair for run in runs for pair in _pairs(run)]
    first = [high for high, low in pairs if low >= 0xA1 and _CHINESE[0] <= high < _CHINESE[1]]
    return 5 * len(first) >= 4 * len(pairs) and max(first, default=0) >= _KOREAN[1]


_KNOWN_BY_LOOK = {
    "cp932": lambda data: _is_japanese("cp932", data),
    "euc_jp": lambda data: _is_japanese("euc_jp", data),
    "cp1252": _is_latin,
    "gb18030": _is_chinese,
}
