"""The proxy before Triton: limits, an allow list, holding and asking again."""
