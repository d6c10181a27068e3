"""What each choice of the connector is worth: how exactly the steps of a clip can be read off its soft tokens.

Small models that differ in one choice are taught alike, each together with a reader that is the same for all, and the
reader tells what happens in every step of clips that nobody has seen. That is a proxy: it says what the soft tokens
hold, not what a language model makes of them. A language model from random weights answers better than by guessing only
after some 6,000 steps, for every one of 42 runs; an earlier version of this package that asked questions is in git.

variants   what differs
reader     what reads the steps off the soft tokens
measures   what is measured
single     one model: taught, measured, its scores written down
study      all of them, a process each
summary    means and intervals
plots      as pictures
command    ``python -m training ablate``
"""
