"""Scoring: AVEB and its records, tasks, metrics and report, without torch.

Where things are: ``metrics`` the arithmetic of every downstream task, numpy arrays in and frozen records out;
``scoring`` official truth files and prediction files to those arrays; ``python -m eval score TASK`` both in one
command. The readers of official formats are ``favor.downstream``, because training reads its labels with them too.
"""
