"""Readers of the official annotation files of the downstream tasks, without torch: training takes labels from them,
eval the truth.

    ave          Audio-Visual Event localisation: one event per ten-second clip, 28 classes and background
    llp          Look, Listen and Parse (AVVP): which of 25 classes are seen, and which are heard, in each second
    avsbench     AVSBench S4 and MS3: masks of what sounds
    music_avqa   MUSIC-AVQA: questions about music in three categories
    valor        VALOR-32K: captions, for retrieval and captioning
    annotations  what all of them share: strict reading, and the error that names file and line

Every reader returns frozen records in the file's order and refuses what it does not understand.
"""
