"""Tools of the developers, run from a checkout and in no wheel; they may import every room."""
