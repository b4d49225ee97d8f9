"""The built-in data: OpenMoji, and things by eight artists."""
