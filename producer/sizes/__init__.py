"""`producer sizes`: which picture sizes the rows of a file will be rendered at, before an engine set is built."""
