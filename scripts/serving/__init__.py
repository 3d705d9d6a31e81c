"""Serve a bundle: a real Triton behind a front that limits, holds and drains."""
