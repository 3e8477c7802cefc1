"""Hydra finds YAML in an installed package where this file is."""
