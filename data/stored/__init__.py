"""The files in a folder of token records."""
