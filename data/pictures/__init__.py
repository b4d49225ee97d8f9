"""Picture files → square pixels; grids of pictures."""
