"""Frames in over ZeroMQ, atoms out."""

import os

# Before NumPy comes: threads of OpenBLAS wait in a loop, on the cores that the network needs. With them the drift of a
# triplet takes 220 ms of two busy cores, without them 25 ms.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
