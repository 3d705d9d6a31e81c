"""The judge: evidence that each variant still does what the fp32 source does; knows no maker."""
