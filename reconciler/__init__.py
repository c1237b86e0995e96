"""Brings a production back to its declared release vector, and can prove that it did.

The package is read from the outside in: `cli`, `web` and `loop` call `engine`, which runs the
`phases`, which use `targets`, `checks` and `audit`; all of them rest on `core`, which only thinks.
"""

__version__ = "0.1.0"
