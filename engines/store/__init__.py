"""Engine sets in a folder or bucket: `engines push`, `engines pull` and `engines list`."""
