"""Scoring: AVEB and its records, tasks, metrics and report, without torch."""
