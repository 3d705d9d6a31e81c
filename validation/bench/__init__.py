"""Speed, interleaved, on a CPU or a GPU; imports what judges."""
