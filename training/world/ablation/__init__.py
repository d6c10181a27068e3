"""What each choice of the connector is worth: small models that differ in one of them, taught and examined alike.

variants   what differs
exam       the paper that all of them sit
single     one model: taught by the ordinary trainer, examined, its scores written down
study      all of them, a process each
summary    means and intervals
plots      as pictures
command    ``python -m training ablate``
"""
