"""The generated world: short clips of things and sounds, with questions about them, from a seed.

Clips, as data and as media:

vocabulary   what things, sounds, signs and words can be     scene        one clip as data
scenes       a seed to a Scene                               splits       what is held out for tests
phrases      the grammar of what is spoken                   speech       spoken words, by espeak-ng
picture      a Scene to frames                               sound        a Scene to a waveform
files        a Scene to an mp4, wav or png file              showcase     the demo's clip, written by hand
clips        many of them, with a data file to learn from

Questions about them:

question     one question with its answer                    questions    a Scene to questions

A small model that learns from them, step by step:

perception   teaches an encoder to see or hear               dense        the labels and heads it is taught with
tokenizer    of the language model, learnt from questions    assemble     encoders and the rest to one model
features     clips to the encoders' outputs                  shards       files of these outputs, and their reader
packing      all questions about a clip in one row           stream       batches for the trainer
publish      a run to the model folder that ships             steps        what is read off each step, by which heads

What it has learnt:

exam         questions about clips that it never met         ablation     what each choice of the connector is worth
"""
