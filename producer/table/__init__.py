"""The CSV: read, split into records, checked row by row."""
