"""Figures from plans and records alone: PDF and SVG for print, PNG for everything else.

One file a figure: a function of a ``Group`` (its records) and its ``Table`` (its numbers) that gives a
matplotlib ``Figure``, or one line that says why there is nothing to draw. ``figures`` lists them.
"""
