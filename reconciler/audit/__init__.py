"""The ledger: what was wanted, decided, done and seen, in order; the lease; and everything read from them."""
