"""The generated world: short clips of things and sounds, with questions about them, from a seed.

vocabulary  what things, sounds, signs and words can be     scene      one clip as data
scenes      a seed to a Scene, splits, held-out combinations
picture     a Scene to frames                               sound      a Scene to a waveform
speech      spoken words, by espeak-ng                      files      a Scene to an mp4, wav or png file
question    one question with its answer                    questions  a Scene to questions
"""
