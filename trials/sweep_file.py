"""Reads sweep files in wandb's format, and checks them before the first run; errors name the line.

The engine's schema misses costly errors: bayes without a metric, a grid over a range, a misspelt
key.
"""

import difflib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yaml.nodes import MappingNode, Node

from trials import engine
from weights.yaml_files import read_nodes

METHODS = ("grid", "random", "bayes")
MOST_INT = 1 << 62
MOST_EXPONENT = 700  # e^709.8 is the largest 64-bit float
ENTRY_KEYS = (
    *("value", "values", "probabilities", "distribution", "min", "max", "mu", "sigma", "q"),
    *("a", "b", "parameters"),
)
"""Keys that wandb knows under a parameter's name."""
OWN_KEYS = ("run_cap",)
"""Keys that wandb's server reads, and its engine does not."""
COUNTABLE = ("int_uniform", "q_uniform")
"""Distributions over a range that a grid can walk."""


@dataclass(frozen=True)
class Sweep:
    """The content of a checked sweep file."""

    path: Path
    settings: Mapping[str, Any]
    """The engine's input."""
    lines: Mapping[str, int]
    """Key with its parents, joined by dots → line of the file."""
    run_cap: int | None
    """The file's limit of runs (run_cap); None without one."""

    @property
    def parameters(self) -> Mapping[str, Any]:
        """Name of a flag → its entry."""
        return self.settings["parameters"]

    @property
    def metric(self) -> str | None:
        """Name of the metric; None if the file names none."""
        return self.settings.get("metric", {}).get("name")

    @property
    def sign(self) -> int:
        """1 if a smaller metric is better, −1 if a larger one is."""
        return -1 if self.settings.get("metric", {}).get("goal") == "maximize" else 1

    @property
    def searched(self) -> list[str]:
        """The parameters that differ between runs."""
        return [name for name, entry in self.parameters.items() if _is_searched(entry)]

    def at(self, key: str) -> str:
        """The place of a key, for messages: "FILE, line 7"."""
        return f"{self.path}, line {self.lines[key]}" if key in self.lines else str(self.path)


def read_sweep(path: Path) -> Sweep:
    """The sweep of a file.

    Raises:
        ValueError: the file cannot be read, or a key or value is wrong; names line and key.
    """
    settings, node = read_nodes(path)
    cap = settings.pop("run_cap", None)
    sweep = Sweep(path, settings, _lines(node), cap)
    for key, fault in _faults(sweep):
        raise ValueError(f"{sweep.at(key)}: {fault}")
    return sweep


def _faults(sweep: Sweep) -> Iterator[tuple[str, str]]:
    """Yield (key, description) of each error, the simplest first."""
    settings = sweep.settings
    for key in settings:
        if key not in engine.KEYS:
            yield key, _unknown(key, (*engine.KEYS, *OWN_KEYS))
    cap = sweep.run_cap
    if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
        yield "run_cap", f"run_cap must be a whole number of at least 1, not {cap!r}"
    if not isinstance(settings.get("program"), str):
        yield "program", "program must name the script to start, such as train.py"
    method = settings.get("method")
    if method not in METHODS:
        yield "method", f"method must be {', '.join(METHODS[:-1])} or {METHODS[-1]}, not {method!r}"
    parameters = settings.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        yield "parameters", "parameters must name at least one flag and its values"
        return
    yield from _metric_faults(settings, str(method))
    for name, entry in parameters.items():
        for fault in _entry_faults(name, entry, str(method)):
            yield f"parameters.{name}", fault
    if not any(_is_searched(entry) for entry in parameters.values()) and method == "bayes":
        yield "parameters", "method bayes needs a parameter that differs between runs"
    for message in engine.violations(settings):
        yield "", message


def _metric_faults(settings: Mapping[str, object], method: str) -> Iterator[tuple[str, str]]:
    metric = settings.get("metric")
    named = isinstance(metric, dict) and isinstance(metric.get("name"), str)
    if metric is not None and not named:
        yield "metric", "metric must have a name, such as eval/tone/loss"
    if isinstance(metric, dict) and metric.get("goal", "minimize") not in ("minimize", "maximize"):
        yield "metric.goal", f"goal must be minimize or maximize, not {metric['goal']!r}"
    needs = "method bayes" if method == "bayes" else "early_terminate"
    if metric is None and (method == "bayes" or "early_terminate" in settings):
        yield "method", f"{needs} needs a metric: its name, and goal: minimize or maximize"


def _entry_faults(name: str, entry: object, method: str) -> Iterator[str]:
    if not isinstance(entry, dict):
        yield f"{name} must have value:, values: or min: and max:, not {entry!r:.60}"
        return
    for key in entry:
        if key not in ENTRY_KEYS:
            yield _unknown(key, ENTRY_KEYS)
    if "values" in entry and (not isinstance(entry["values"], list) or not entry["values"]):
        yield f"{name} has values: that are not a list of at least one value"
    yield from _range_faults(name, entry, method)
    for message in engine.violations({"method": "random", "parameters": {name: entry}}):
        yield message if name in message else f"{name}: {message}"


def _range_faults(name: str, entry: Mapping[str, Any], method: str) -> Iterator[str]:
    low, high = entry.get("min"), entry.get("max")
    if (low is None) != (high is None):
        yield f"{name} has min: without max:, or max: without min:"
    if isinstance(low, int | float) and isinstance(high, int | float) and low >= high:
        yield f"{name} has min {low} that is not below max {high}"
    for key, value in (("min", low), ("max", high)):
        if isinstance(value, int) and abs(value) >= MOST_INT:  # NumPy draws in 64 bits
            yield f"{name} has {key} {value:,}, which is not below {MOST_INT:,}"
    distribution = entry.get("distribution", "")
    yield from _endless_draws(name, entry, str(distribution))
    if distribution == "log_uniform" and isinstance(low, float) and 0 < low < 1:
        yield (
            f"{name} has log_uniform, whose min and max are exponents: these mean "
            f"{math.exp(low):.4g} to {math.exp(high or 0):.4g}; write log_uniform_values"
        )
    is_walked = distribution in COUNTABLE or (
        isinstance(low, int) and isinstance(high, int) and not distribution
    )
    if method == "grid" and low is not None and not is_walked:
        yield f"{name} is a range, and a grid over it has no end; write values: [...]"


def _endless_draws(name: str, entry: Mapping[str, object], distribution: str) -> Iterator[str]:
    """Yield the numbers of a distribution whose draws are infinite or NaN."""
    for key in ("min", "max") if distribution.endswith("log_uniform") else ("mu", "sigma"):
        value = entry.get(key)
        if "log_" in distribution and isinstance(value, int | float) and not value <= MOST_EXPONENT:
            yield (
                f"{name} has {distribution} with {key} {value:,}, an exponent: e^{value:g} is no "
                f"finite number; exponents are at most {MOST_EXPONENT}"
                + ("; log_uniform_values takes the values themselves" if key == "max" else "")
            )
    for key in ("a", "b") if distribution.endswith("beta") else ():
        value = entry.get(key)
        if isinstance(value, int | float) and not 0 < value < math.inf:
            yield f"{name} has {distribution} with {key} {value}, which must be above 0"


def _is_searched(entry: object) -> bool:
    return isinstance(entry, dict) and "value" not in entry and len(entry.get("values", "12")) > 1


def _unknown(key: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(str(key), known, 1)
    hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(known)}"
    return f"unknown key {key!r}{hint}"


def _lines(node: Node, parent: str = "") -> dict[str, int]:
    """Key with its parents → its line, counted from 1."""
    line_of: dict[str, int] = {}
    for key, value in node.value if isinstance(node, MappingNode) else ():
        name = f"{parent}.{key.value}" if parent else str(key.value)
        line_of[name] = key.start_mark.line + 1
        line_of.update(_lines(value, name))
    return line_of
