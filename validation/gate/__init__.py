"""Policy, checks, verdicts, and the test of the gate itself.

Imports ``validation.evaluate`` and below.
"""
