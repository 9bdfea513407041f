"""The test of the Debian package, `make package-test`: what an operator does with it, in a Debian of its own."""
