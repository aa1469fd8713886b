"""Pictures drawn straight through a set's engines: to compare sets, and to see what its layers meet."""
