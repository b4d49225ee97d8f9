"""Pictures and captions → token records."""
