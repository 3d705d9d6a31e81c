"""One file an engine, and the table that opens them; imports ``runtime.trt`` and what is below."""
