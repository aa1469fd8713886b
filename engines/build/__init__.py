"""Building an engine set: stages run or reused, in a folder that replaces the old set as a whole."""
