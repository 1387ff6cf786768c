"""Networks, one a file: arrays in, arrays out. Knows no storage and no scheduler."""
