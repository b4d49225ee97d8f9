"""What python -m data.filter and data.report look for in records."""
