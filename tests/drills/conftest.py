"""Drills train on the tiny token records of the entry points' tests."""

from tests.entry.conftest import records_folder as records_folder
