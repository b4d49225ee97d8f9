"""Names of splits with a meaning in the code; any package may import this file.

Every other split is held out: evaluated, and asked for by its name.
"""

TRAIN = "train"
HELD_OUT = "held_out"
"""The split that is kept from training if a source has no splits of its own."""
GALLERY = "gallery"
"""Pictures to compare with: neither trained on nor asked for."""
NOT_HELD_OUT = (TRAIN, GALLERY)
