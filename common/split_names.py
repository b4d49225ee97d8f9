"""Names of splits that the code knows; any package may import this file.

Every other split is held out: it is evaluated under its name.
"""

TRAIN = "train"
HELD_OUT = "held_out"
"""The held-out split of a source that has no splits."""
GALLERY = "gallery"
"""Pictures that evaluation compares with; they are neither trained on nor drawn."""
NOT_HELD_OUT = (TRAIN, GALLERY)
