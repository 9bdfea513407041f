"""The benchmark behind `make bench`. See bench/README.md."""
