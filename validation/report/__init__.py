"""The same facts for people, CI and programs; imports what judges and measures."""
