"""A method, a metric and a dataset of one's own for vmtbench."""
