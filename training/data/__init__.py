"""Data for training: manifests in, batches out, and a stream that resumes exactly.

manifest    one line to a Sample               importers   other projects' lists to manifest lines
index       where each record begins           sources     files opened for random access
shuffling   orders as functions of integers    sampler     which samples come in which step
mixing      mixed-modality sampling            batches     picks to a TrainingBatch, bad samples left out
workers     the same in processes              drops       bad samples counted, the run stopped
stream      BatchStream, validation_batches    check       every item read before training
"""

from training.data.batches import DroppedSample, TrainingBatch
from training.data.drops import TooManyBadSamplesError
from training.data.manifest import ManifestError, Sample
from training.data.sources import Source, open_sources
from training.data.stream import BatchStream, validation_batches

__all__ = [
    "BatchStream",
    "DroppedSample",
    "ManifestError",
    "Sample",
    "Source",
    "TooManyBadSamplesError",
    "TrainingBatch",
    "open_sources",
    "validation_batches",
]
