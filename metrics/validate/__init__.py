"""The trackers and metrics of this package, measured against a world whose truth is known.

``python -m metrics.validate`` ranks the motion and consistency metrics by how well they follow the truth,
``python -m metrics.validate tracker`` scores a tracker. See docs/metrics.md.
"""
