"""The command line, one file a group of commands; imports every room, and no room imports it."""
