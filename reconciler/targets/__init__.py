"""The four systems that are taken back together. One module a target; two targets never know each other."""
