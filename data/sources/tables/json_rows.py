"""Rows of tables in JSON, in the shapes that programs write."""

from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any

from common.json_files import Json
from data.sources.captions import texts
from data.sources.files.tree import is_picture
from data.sources.tables.separated import PATH_COLUMNS, Row

_KNOWN = frozenset((*PATH_COLUMNS, *texts.CAPTION_NAMES))
_LOOKED_AT = 20  # rows
_MAX_DEPTH = 8  # of objects in objects


def of_line(value: object) -> Iterator[Row]:
    """Yield the rows in a line of JSON lines: an object, a list of cells, a list of objects, or an
    object whose keys are pictures. Any other value becomes an empty row, which names no picture."""
    if isinstance(value, dict) and any(map(is_picture, value)):
        yield from _by_name(value)
    elif (row := _row(value)) is None and isinstance(value, list) and value:
        yield from _listed(value)
    else:
        yield row or {}


def of_file(content: object) -> Iterator[Row]:
    """Yield the rows in a JSON file.

    They are COCO's annotations joined with its images; a list of objects or of lists, or such a
    list in an object; columns as pandas writes them; or an object whose keys are pictures. If these
    name no picture, they are all objects at any depth that name one.
    """
    rows = _of_known_shape(content)
    some = list(islice(rows, _LOOKED_AT))
    if not any(map(_names_picture, some)) and (first := next(deep := _at_any_depth(content), None)):
        yield from chain([first], deep)
    else:
        yield from chain(some, rows)


def _names_picture(row: Mapping[str, object]) -> bool:
    return any(isinstance(value, str) and _is_path(value) for value in row.values())


def _is_path(text: str) -> bool:
    return is_picture(text.partition("?")[0])


def _at_any_depth(
    value: object, about: Mapping[str, object] | None = None, depth: int = 0
) -> Iterator[Row]:
    """The rows of objects that name a picture, wherever they are. Each has the texts and numbers of
    the objects around it (`about`), and all that belongs to it alone. So Label Studio puts the path
    beside the captions, and Instagram the caption beside a post's pictures."""
    about = about or {}
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, list):
        for entry in value:
            yield from _at_any_depth(entry, about, depth + 1)
    elif isinstance(value, dict) and _names_picture(value):
        yield {**about, **{k: v for k, v in value.items() if k not in about or v not in ("", None)}}
    elif isinstance(value, dict):
        # What is around several pictures may be about another one: its texts are shared alone.
        plain = {k: v for k, v in value.items() if isinstance(v, str | int | float)}
        is_one = _count(value) == 1
        for name, entry in value.items():
            if isinstance(entry, dict | list) and _count(entry):
                shared = {k: v for k, v in value.items() if k != name} if is_one else plain
                yield from _at_any_depth(entry, {**about, **shared}, depth + 1)


def _count(value: object, depth: int = 0) -> int:
    """The number of objects at any depth that name a picture."""
    if depth > _MAX_DEPTH or not isinstance(value, list | dict):
        return 0
    if isinstance(value, dict) and _names_picture(value):
        return 1
    entries = value if isinstance(value, list) else value.values()
    return sum(_count(entry, depth + 1) for entry in entries)


def _of_known_shape(content: object) -> Iterator[Row]:
    if not isinstance(content, dict):
        yield from _listed(content)
    elif is_coco(content):
        yield from _coco(content)
    elif any(map(is_picture, content)):
        yield from _by_name(content)
    elif rows := _from_columns(content):
        yield from rows
    else:
        lists = [value for value in content.values() if next(_listed(value), None)]
        # In front of the pictures there may be lists of licences and categories.
        lists.sort(key=_has_captions, reverse=True)
        yield from _listed(lists[0]) if lists else _by_name(content)


def _listed(value: object) -> Iterator[Row]:
    """The rows in a list."""
    for entry in value if isinstance(value, list) else ():
        if row := _row(entry):
            yield row


def _has_captions(value: object) -> bool:
    names = {name.lower() for name in next(_listed(value), {})}
    return bool(names & set(PATH_COLUMNS) and names & set(texts.CAPTION_NAMES))


def _row(value: object) -> Row | None:
    if isinstance(value, list) and len(value) > 1 and isinstance(value[0], str):
        return {f"col{i}": cell for i, cell in enumerate(value)}
    return value if isinstance(value, dict) else None


def _by_name(content: Mapping[str, object]) -> Iterator[Row]:
    """The rows of an object whose keys are pictures, with or without their endings. Its values are
    captions, as in {"1.jpg": "a bird", "2.jpg": ["a cat", "one cat"]}, or objects."""
    for name, value in content.items():
        columns = value if isinstance(value, dict) else {"captions": value}
        yield {"file_name": name, **columns}


def _from_columns(content: Json) -> list[Row]:
    """The rows of an object of columns, which are lists of the same length or objects with the same
    keys (pandas' orient "list", "columns" and "split"); none for another object."""
    names, cells = content.get("columns"), content.get("data")
    if isinstance(names, list) and isinstance(cells, list):
        return [
            dict(zip(map(str, names), row, strict=False)) for row in cells if isinstance(row, list)
        ]
    if len(content) < 2 or not any(name.lower() in _KNOWN for name in content):
        return []
    columns = list(content.values())
    if all(isinstance(column, dict) for column in columns):
        keys = list(columns[0])
        if any(list(column) != keys for column in columns):
            return []
        columns = [list(column.values()) for column in columns]
    if not all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        return []
    return [dict(zip(content, row, strict=True)) for row in zip(*columns, strict=True)]


def is_coco(content: Mapping[str, object]) -> bool:
    """True if an object is COCO's: it has a list of images and one of captions."""
    images, annotations = content.get("images"), content.get("annotations")
    if not isinstance(images, list) or not isinstance(annotations, list):
        return False
    return any(
        isinstance(annotation, dict) and "caption" in annotation for annotation in annotations
    )


def _coco(content: Json) -> Iterator[Row]:
    captions: dict[Any, list[Any]] = {}
    for annotation in content["annotations"]:
        if isinstance(annotation, dict) and isinstance(annotation.get("image_id"), int | str):
            captions.setdefault(annotation["image_id"], []).append(annotation.get("caption"))
    for image in content["images"]:
        if isinstance(image, dict) and isinstance(image.get("id"), int | str):
            yield {"file_name": image.get("file_name"), "captions": captions.get(image["id"], [])}
