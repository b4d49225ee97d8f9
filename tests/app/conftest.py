"""The tiny run of tests/entry serves the page as well."""

from tests.entry.conftest import records_folder as records_folder
from tests.entry.conftest import run_folder as run_folder
