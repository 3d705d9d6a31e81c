"""Rows through source and variants, resumable.

Imports ``validation.data``, ``scores`` and ``parity``, and what is below them.
"""
