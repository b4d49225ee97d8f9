"""Parses pickles without executing them.

A pickle is a program that builds objects by importing and calling. Here an import returns a
`Global`, which is only a name, and a call returns a `Call`, which is only a record. Numbers, texts
and containers are returned unchanged. The caller decides what a call means.
"""

import pickletools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from mmap import mmap
from typing import Any


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


class _Mark:
    """The place where the arguments of a later instruction begin."""


MARK = _Mark()
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_SET": list,  # of things that may not be hashable here
    "MARK": lambda: MARK,
}
MOST = 4_000_000  # a checkpoint of 10,000 tensors has about a million
LARGEST = 1 << 32
"""Bound of numbers that are keys. Larger ones could be chosen to collide in a dict, which then
takes quadratic time."""
IGNORED = {"PROTO", "FRAME"}
ARGUMENTS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING"),
    *("SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
"""Instructions whose own argument is the object."""


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
            if count == MOST:
                raise ValueError(f"its pickle has more than {MOST:,} instructions")
            machine.follow(opcode.name, argument)
        return machine.stack.pop()
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"its pickle is damaged ({type(error).__name__})") from None


def _instructions(file: mmap) -> Iterator[tuple[Any, Any, Any]]:
    return pickletools.genops(file)  # type: ignore[arg-type]  # it reads and reads lines


class _Machine:
    def __init__(self, check: Callable[[Global], None], refer: Callable[[Any], Any]) -> None:
        self.check, self.refer = check, refer
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def follow(self, name: str, argument: object) -> None:
        if name in CONSTANTS:
            self.stack.append(CONSTANTS[name]())
        elif name in ARGUMENTS:
            self.stack.append(argument)
        elif name in HANDLERS:
            HANDLERS[name](self, argument)
        elif name not in IGNORED:
            raise ValueError(f"its pickle has the instruction {name}, which no weights need")

    def to_mark(self) -> list[Any]:
        """Take everything above the last mark, and the mark."""
        taken = []
        while (top := self.stack.pop()) is not MARK:
            taken.append(top)
        return taken[::-1]

    def last(self, count: int) -> list[Any]:
        taken = self.stack[len(self.stack) - count :]
        if len(taken) < count:
            raise IndexError
        del self.stack[len(self.stack) - count :]
        return taken

    def keep(self, place: int) -> None:
        if not 0 <= place < LARGEST:
            raise ValueError(f"its pickle remembers something as {place!r:.20}")
        self.memo[place] = self.stack[-1]

    def name(self, module: object, name: object) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError
        found = Global(module, name)
        self.check(found)
        self.stack.append(found)

    def call(self, count: int) -> None:
        """A call of the object below `count` arguments."""
        function, *arguments = self.last(count + 1)
        self.stack.append(Call(function, arguments[0] if count == 1 else arguments))

    def fill(self, pairs: list[object]) -> None:
        """Add the pairs, key after value in the list, to the dict on top of the stack. Keys that
        are not texts or small numbers are dropped."""
        target = self.stack[-1]
        items = zip(pairs[::2], pairs[1::2], strict=True)
        if isinstance(target, dict):
            target.update((k, v) for k, v in items if _is_key(k))
        elif not isinstance(target, Call):
            raise TypeError

    def make_dict(self) -> None:
        pairs = self.to_mark()
        self.stack.append({})
        self.fill(pairs)

    def extend(self, values: list[object]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)
        elif not isinstance(self.stack[-1], Call):
            raise TypeError


def _is_key(value: object) -> bool:
    return isinstance(value, str | Global) or (type(value) is int and abs(value) < LARGEST)


def _reduce(machine: _Machine, argument: object) -> None:
    """Record a call. An ordered dict is made at once, because the next instructions fill it."""
    function, arguments = machine.last(2)
    is_dict = isinstance(function, Global) and str(function) == "collections.OrderedDict"
    machine.stack.append({} if is_dict and arguments == () else Call(function, arguments))


HANDLERS: dict[str, Callable[[_Machine, Any], Any]] = {
    "GLOBAL": lambda m, argument: m.name(*argument.split(" ", 1)),
    "STACK_GLOBAL": lambda m, _: m.name(*m.last(2)),
    "REDUCE": _reduce,
    "NEWOBJ": lambda m, _: m.call(1),
    "NEWOBJ_EX": lambda m, _: m.call(2),
    "BUILD": lambda m, _: m.stack.pop(),  # an object's state is not needed
    "BINPERSID": lambda m, _: m.stack.append(m.refer(m.stack.pop())),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.to_mark())),
    "TUPLE1": lambda m, _: m.stack.append(tuple(m.last(1))),
    "TUPLE2": lambda m, _: m.stack.append(tuple(m.last(2))),
    "TUPLE3": lambda m, _: m.stack.append(tuple(m.last(3))),
    "DICT": lambda m, _: m.make_dict(),
    "LIST": lambda m, _: m.stack.append(m.to_mark()),
    "FROZENSET": lambda m, _: m.stack.append(m.to_mark()),
    "APPEND": lambda m, _: m.extend(m.last(1)),
    "APPENDS": lambda m, _: m.extend(m.to_mark()),
    "ADDITEMS": lambda m, _: m.extend(m.to_mark()),
    "SETITEM": lambda m, _: m.fill(m.last(2)),
    "SETITEMS": lambda m, _: m.fill(m.to_mark()),
    "POP": lambda m, _: m.stack.pop(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "PUT": lambda m, place: m.keep(place),
    "BINPUT": lambda m, place: m.keep(place),
    "LONG_BINPUT": lambda m, place: m.keep(place),
    "MEMOIZE": lambda m, _: m.keep(len(m.memo)),
    "GET": lambda m, place: m.stack.append(m.memo[place]),
    "BINGET": lambda m, place: m.stack.append(m.memo[place]),
    "LONG_BINGET": lambda m, place: m.stack.append(m.memo[place]),
}
