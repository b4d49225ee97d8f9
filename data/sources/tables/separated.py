"""Rows of text tables: csv, tsv, and lines such as `1.jpg: a bird`."""

import csv
import re
from collections import Counter, deque
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from typing import Any

from data.sources.captions import texts
from data.sources.files.tree import PICTURE_ENDINGS, is_picture

Row = dict[str, Any]
BEYOND = "\0beyond"
"""The key of cells beyond the named columns."""
PATH_COLUMNS = (
    *("file_name", "filename", "file", "filepath", "file_path", "path", "image_path", "image"),
    *("image_file", "image_name", "images", "img", "img_path", "key", "image_id", "id", "col0"),
)
"""Names of columns of paths, in the order in which they are preferred."""
MAX_CELL = 1 << 20
"""Most characters of a cell."""
_MOST_TITLES = 20  # lines above the first row
_SPACE = " "  # the separator of `1.jpg a bird`
_NUMBERED = re.compile(r"#\w+$")  # Flickr8k's 1000.jpg#0
_OPENED = re.compile(r'(?:^|[,;\t|])"')
_ESCAPED_QUOTE = re.compile(r'\\"(?=[^",;\t|\r\n])')
_PAIR = re.compile(
    rf"(.*?\.(?:{'|'.join(PICTURE_ENDINGS)})(?:#\w+)?)(?:\s*[:=]\s*|\s+[-–—]\s+|\s+)(\S.*)",
    re.IGNORECASE | re.DOTALL,
)


def rows_of(lines: Iterator[str]) -> Iterator[Row]:
    """Yield the rows of a text whose cells are separated by tabs, |, semicolons or commas, or of
    lines of a picture's name and its caption.

    Names of columns come from the first line, or are col0, col1 … if that is a row already. Blank
    lines, comments and titles above it are skipped.
    """
    csv.field_size_limit(MAX_CELL)
    lines = (_with_doubled_quotes(line.replace("\0", "")) for line in lines)
    first, separator = _begin(lines)
    if not separator:
        return
    if separator == _SPACE:
        for line in chain([first], lines):
            yield _pair(line)
        return
    rows = _cells(chain([first], lines), separator)
    names = [name.strip() for name in next(rows, [])]
    if len(names) < 2:
        return
    some = list(islice(rows, _MOST_TITLES))
    rows = chain(some, rows)
    if _is_row(names, some):
        some, rows = [names, *some], chain([names], rows)
        # A caption with unquoted separators has more cells than others.
        names = [f"col{i}" for i in range(max(min(len(row) for row in some if row), 2))]
    names = _apart(names)
    for row in rows:
        if row:
            yield _named(names, row, separator)


def _apart(names: list[str]) -> list[str]:
    """The names of columns; of several columns of captions with one name, numbered: all are the
    captions of a picture."""
    counts = Counter(names)
    seen = Counter[str]()
    apart = []
    for name in names:
        is_one_of_several = counts[name] > 1 and texts.is_known(name)
        apart.append(f"{name}_{seen[name]}" if is_one_of_several else name)
        seen[name] += 1
    return apart


def _with_doubled_quotes(line: str) -> str:
    """The line with MySQL's and BigQuery's \\" as CSV's "". A Windows path may end in \\ before a
    closing quote, and JSON in a cell has \\"", so these alone are not taken for it."""
    has_quoted = _OPENED.search(line) and _ESCAPED_QUOTE.search(line)
    return line.replace('\\"', '""') if has_quoted else line


def _begin(lines: Iterator[str]) -> tuple[str, str]:
    """(the first line with several cells, its separator), or two empty texts."""
    given = ""
    for line, _ in zip(lines, range(_MOST_TITLES), strict=False):
        if match := re.match(r"\s*sep=(.)\s*$", line, re.IGNORECASE):  # Excel's first line
            given = match[1]
            continue
        if line.startswith("#") and not _is_row(_split(line, _separator(line)), []):
            line = line.lstrip("# ")
            if not any(_is_known(cell) for cell in _split(line, _separator(line))):
                continue  # a comment
        if separator := given or _separator(line):
            return line, separator
    return "", ""


def _separator(line: str) -> str:
    """The separator that makes a cell of this line the name of a picture, else the first one that
    the line has."""
    present = [separator for separator in "\t|;," if separator in line]
    for separator in present:
        if any(map(_names_picture, _split(line, separator))):
            return separator
    return _SPACE if _PAIR.match(line) else present[0] if present else ""


def _split(line: str, separator: str) -> list[str]:
    if separator in ("", _SPACE):
        return [line]
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]


def _pair(line: str) -> Row:
    match = _PAIR.match(line)
    return {"col0": match[1], "col1": match[2].strip()} if match else {"col0": line.strip()}


def _names_picture(cell: str) -> bool:
    return is_picture(_NUMBERED.sub("", cell.strip()))


def _is_row(cells: list[str], others: list[list[str]]) -> bool:
    """True if the cells of a first line are values and not names of columns. They are names, such
    as "Nr." and "Size/Style", if only the `others`, the rows after it, name pictures."""
    if any(map(_names_picture, cells)):
        return True
    if any(_names_picture(cell) for row in others for cell in row):
        return False
    if any("/" in cell for cell in cells):
        return True
    return any("." in cell for cell in cells) and not any(map(_is_known, cells))


def _is_known(name: str) -> bool:
    """True for a known name of a column or for one with such a part, as in image.path."""
    parts = name.strip().lower().split(".")
    return all(map(str.isidentifier, parts)) and any(
        part in PATH_COLUMNS + texts.CAPTION_NAMES for part in parts
    )


def _cells(lines: Iterator[str], separator: str) -> Iterator[list[str]]:
    """Yield the cells of each row. An unclosed quote is an ordinary character: its row ends before
    the next line that has the same number of cells and a picture's name in the same one.

    Between tabs and | only a cell that is quoted as a whole was quoted by a program; in other cells
    a quote is a letter.
    """
    plain = partial(csv.reader, delimiter=separator, quoting=csv.QUOTE_NONE)
    quoted = partial(csv.reader, delimiter=separator)
    whole = re.compile(rf'(?:^|[{separator}])"[^"]*(?:""[^"]*)*(?:"(?=[{separator}\r\n]|$)|$)')
    width, places = 0, set[int]()

    def is_row(line: str) -> bool:
        alone = next(quoted([line]), [])
        return len(alone) >= width and bool(places & _places_of_pictures(alone))

    def record(taken: list[str]) -> Iterator[str]:
        yield taken[0]
        for line in lines:
            if is_row(line):
                waiting.append(line)
                return
            taken.append(line)
            yield line

    waiting = deque[str]()
    while (line := waiting.popleft() if waiting else next(lines, None)) is not None:
        places = places or _places_of_pictures(next(plain([line]), []))
        taken = [line]
        if separator in ",;" or ('"' in line and whole.search(line)):
            row = next(quoted(record(taken)), [])
        else:
            row = next(plain(taken), [])
        if waiting:
            row = next(plain([" ".join(part.strip("\r\n") for part in taken)]), [])
        width = width or len(row)
        yield row


def _places_of_pictures(row: list[str]) -> set[int]:
    return {place for place, cell in enumerate(row) if is_picture(cell.strip())}


def _named(names: list[str], row: list[str], separator: str) -> Row:
    """A row by the names of its columns. Captions in the last column may hold the separator."""
    beyond = row[len(names) :]
    if beyond and (names[-1] == f"col{len(names) - 1}" or texts.caption_columns(names[-1:])):
        row = [*row[: len(names) - 1], separator.join(row[len(names) - 1 :])]
        beyond = []
    named = {n: v.strip() for n, v in zip(names, row, strict=False)}
    return {**named, BEYOND: separator.join(beyond)} if beyond else named
