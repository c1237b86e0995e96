"""The thinking: specs, facts, drift, plans, the state machine, decisions.

Everything here is computing only. No clock, disk, network, process or database is touched, and nothing of ours outside
this package is imported. The shell around it (engine, phases, targets, audit, cli) passes in what it has read.
"""
