"""Reads pickles. Nothing in a file can run.

A pickle is a program: its instructions import functions, call them, and collect the results. This
reader follows the instructions without importing or calling: an import becomes a `Global`, which is
only a name, and a call becomes a `Call`, which is only a record. Numbers, texts and containers
become themselves. The caller decides what a `Call` means. The standard library's pickletools splits
the file into instructions, and runs nothing either.
"""

import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from mmap import mmap
from typing import Any

MOST_INSTRUCTIONS = 4_000_000  # a checkpoint of 10,000 tensors has about a million
LARGEST_KEY = 1 << 32
"""Bound of numbers that are keys. Larger ones could be chosen to collide in a dict, which then
takes quadratic time."""


@dataclass(frozen=True, eq=False)
class Global:
    """The name of a function or class that the pickle would have imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, eq=False, repr=False)
class Call:
    """A call in the pickle, which is not made. It has no repr of its content, because that could be
    infinite."""

    function: Any
    arguments: Any


def read_pickle(file: mmap, check: Callable[[Global], None], refer: Callable[[Any], Any]) -> Any:
    """The object that the pickle at the file's position describes. The file is left after the
    pickle.

    `check` is called with every import and raises ValueError for one that does not belong among
    weights. `refer` returns the object outside of the pickle for an identity.

    Raises:
        ValueError: the pickle is damaged, or has an instruction that no weights file needs.
    """
    machine = _Machine(check, refer)
    try:
        for count, (opcode, argument, _) in enumerate(_instructions(file)):
            if opcode.name == "STOP":
                break
            if count == MOST_INSTRUCTIONS:
                raise ValueError(f"its pickle has more than {MOST_INSTRUCTIONS:,} instructions")
            machine.follow(opcode.name, argument)
        return machine.pop()
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"its pickle is damaged ({type(error).__name__})") from None


def _instructions(file: mmap) -> Iterator[tuple[Any, Any, Any]]:
    return pickletools.genops(file)  # type: ignore[arg-type]  # it reads and reads lines


_MARK = object()
"""On the stack: the place where the arguments of a later instruction begin."""


class _Machine:
    """A stack of unfinished objects, and a memo of objects that the pickle refers to again."""

    def __init__(self, check: Callable[[Global], None], refer: Callable[[Any], Any]) -> None:
        self.check, self.refer = check, refer
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def follow(self, instruction: str, argument: object) -> None:
        """Follow one instruction, as INSTRUCTIONS says."""
        if instruction not in INSTRUCTIONS:
            raise ValueError(f"its pickle has the instruction {instruction}, which no weights need")
        INSTRUCTIONS[instruction](self, argument)

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_last(self, count: int) -> list[Any]:
        """The last `count` objects, taken from the stack."""
        start = len(self.stack) - count
        if start < 0:
            raise IndexError
        last = self.stack[start:]
        del self.stack[start:]
        return last

    def pop_to_mark(self) -> list[Any]:
        """The objects above the last mark, taken from the stack with the mark."""
        above = []
        while (top := self.stack.pop()) is not _MARK:
            above.append(top)
        return above[::-1]

    def push_global(self, module: object, name: object) -> None:
        """Push the name of an import, which is not made."""
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError
        imported = Global(module, name)
        self.check(imported)
        self.push(imported)

    def push_call(self, function: object, arguments: object) -> None:
        """Push a record of a call, which is not made. Only an empty ordered dict is made, because
        the next instructions fill it."""
        is_dict = isinstance(function, Global) and str(function) == "collections.OrderedDict"
        self.push({} if is_dict and arguments == () else Call(function, arguments))

    def push_dict(self, keys_and_values: list[object]) -> None:
        self.push({})
        self.set_items(keys_and_values)

    def set_items(self, keys_and_values: list[object]) -> None:
        """Set items of the dict on top of the stack, from a list of key, value, key, value … Keys
        that are not texts or small numbers are dropped. The items of a `Call` are, too."""
        target = self.stack[-1]
        items = zip(keys_and_values[::2], keys_and_values[1::2], strict=True)
        if isinstance(target, dict):
            target.update((key, value) for key, value in items if _is_key(key))
        elif not isinstance(target, Call):
            raise TypeError

    def extend(self, values: list[object]) -> None:
        """Extend the list on top of the stack. The values of a `Call` are dropped."""
        target = self.stack[-1]
        if isinstance(target, list):
            target.extend(values)
        elif not isinstance(target, Call):
            raise TypeError

    def remember(self, place: int) -> None:
        """Store the top of the stack in the memo."""
        if not 0 <= place < LARGEST_KEY:
            raise ValueError(f"its pickle remembers something as {place!r:.20}")
        self.memo[place] = self.stack[-1]

    def recall(self, place: int) -> None:
        """Push an object of the memo."""
        self.push(self.memo[place])


def _is_key(value: object) -> bool:
    return isinstance(value, str | Global) or (type(value) is int and abs(value) < LARGEST_KEY)


def _call_with_keywords(function: object, arguments: object, keywords: object) -> Call:
    return Call(function, [arguments, keywords])


_Follow = Callable[[_Machine, Any], object]
INSTRUCTIONS: dict[str, _Follow] = {
    # Objects that are in the instruction itself.
    **dict.fromkeys(
        (
            *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
            *("FLOAT", "BINFLOAT"),
            *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
            *("STRING", "BINSTRING", "SHORT_BINSTRING"),
            *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        ),
        _Machine.push,
    ),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    # Containers. A set becomes a list, because its things may not be hashable here.
    "MARK": lambda m, _: m.push(_MARK),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, _: m.push(tuple(m.pop_last(1))),
    "TUPLE2": lambda m, _: m.push(tuple(m.pop_last(2))),
    "TUPLE3": lambda m, _: m.push(tuple(m.pop_last(3))),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "EMPTY_SET": lambda m, _: m.push([]),
    "LIST": lambda m, _: m.push(m.pop_to_mark()),
    "FROZENSET": lambda m, _: m.push(m.pop_to_mark()),
    "APPEND": lambda m, _: m.extend(m.pop_last(1)),
    "APPENDS": lambda m, _: m.extend(m.pop_to_mark()),
    "ADDITEMS": lambda m, _: m.extend(m.pop_to_mark()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "DICT": lambda m, _: m.push_dict(m.pop_to_mark()),
    "SETITEM": lambda m, _: m.set_items(m.pop_last(2)),
    "SETITEMS": lambda m, _: m.set_items(m.pop_to_mark()),
    # Imports and calls, none of which is made.
    "GLOBAL": lambda m, names: m.push_global(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.push_global(*m.pop_last(2)),
    "REDUCE": lambda m, _: m.push_call(*m.pop_last(2)),
    "NEWOBJ": lambda m, _: m.push(Call(*m.pop_last(2))),
    "NEWOBJ_EX": lambda m, _: m.push(_call_with_keywords(*m.pop_last(3))),
    "BUILD": lambda m, _: m.pop(),  # an object's state is not needed
    "BINPERSID": lambda m, _: m.push(m.refer(m.pop())),
    # The stack and the memo.
    "POP": lambda m, _: m.pop(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.remember),
    "MEMOIZE": lambda m, _: m.remember(len(m.memo)),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.recall),
    **dict.fromkeys(("PROTO", "FRAME"), lambda m, _: None),
}
"""Instruction → what the machine does for it, with the instruction's own argument."""
