"""The parity ladder: whether an implementation equals the reference, where it first departs, whether that matters."""
