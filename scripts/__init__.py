"""Steps joined into jobs: release and bench; what is on top of everything."""
