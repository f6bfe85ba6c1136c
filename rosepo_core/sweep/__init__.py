"""Sweeps: the same configuration with other values of some keys, to find the values that validate best.

`space` says what is searched, `judging` by what, `study` asks optuna for the next values, `running` runs the trials,
and `page` is the report.
"""
