"""Reading and writing pictures and videos, and the optical flow between frames."""
