"""Metrics of the downstream tasks, each as its task publishes it: numpy in, frozen records out, shares from 0 to 1.

ave          segment accuracy of AVE, and what two oracles reach
avvp         segment and event F-scores of LLP: A, V, AV, Type@AV, Event@AV
avs          mIoU and F-score of AVSBench, with the batch rule said aloud
avqa         accuracy of MUSIC-AVQA by type, and its two averages, which papers mix up
retrieval    R@1/5/10 and their mean
captioning   AVC's "Avg"; the caption scorers themselves come from pycocoevalcap
arguments    what every metric checks first
"""
