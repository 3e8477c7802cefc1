"""A table: which cells it holds, its rows and columns, what their differences say, how it is written."""
