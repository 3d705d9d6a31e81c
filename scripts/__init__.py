"""The command line and one-off tools."""
