"""Fixtures: the tiny records of tests/entry."""

from tests.entry.conftest import records_folder as records_folder
