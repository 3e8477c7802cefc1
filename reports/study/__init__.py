"""A blind study of people's votes (docs/study.md): ``python -m reports study`` and ``votes``."""
