"""From weights to prebuilt engine sets: spec, export, build, verify, run. Imports neither jobs nor worker."""
