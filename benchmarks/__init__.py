"""How long the parts take. Not shipped; run with `make bench`."""
