"""The rules for the configuration of each network, and for original .yaml files."""
