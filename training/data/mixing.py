"""Mixed-modality sampling, after video-SALMONN's unpaired mixing: what becomes of a sample at its place in the stream.

Which samples can be changed, each by one option at most:

- *unpaired_image_audio*: one picture without sound. It gets the sound of a sample that is sound alone; half of them
  keep their own question, half are asked both questions, in either order, and answered both.
- *unpaired_video_audio*: one video whose sound is not used. 4 of 5 stay as they are, their sound flagged absent; 1 of
  5 gets an unrelated sound and both questions.
- *matching_questions*: one clip with its own sound. Its conversation becomes a question whether sound and picture
  belong together; half of them get another sample's sound ("No."), half keep theirs ("Yes.").

Every draw is a function of (seed, epoch, place in the epoch), so resuming repeats it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from favor.errors import ConfigurationError
from favor.messages import AudioPart, ImagePart, MediaPart, Message, VideoPart, assistant, user
from favor.messages import Source as MediaSource
from training import recipe
from training.data.manifest import ManifestError, Sample
from training.data.sampler import Pick
from training.data.shuffling import hashed, uniform
from training.data.sources import Source

BOTH_QUESTIONS_OF_IMAGES = 0.5
BOTH_QUESTIONS_OF_VIDEOS = 0.2
WRONG_SOUNDS = 0.5

QUESTIONS_OF = {
    "image": "in the picture, {question}",
    "video": "in the video, {question}",
    "sound": "in the sound, {question}",
}
JOINT = "{first}, and {second}"
MATCHING_QUESTIONS = (
    "Do the sound and the picture belong together?",
    "Was this sound recorded along with what is shown?",
    "Does what is heard fit what is seen?",
)
YES, NO = "Yes.", "No."

NUM_PROBES = 64
"""Records of a source that are looked at to learn whether it has sounds to give."""

NUM_TRIES = 512
"""Records that are drawn at most until one of them has a sound to give."""

_MIX, _SHARE, _BOTH, _ORDER, _WORDS, _WRONG, _SOUND = range(100, 107)  # what a hash is for


class Mixer:
    """Changes samples as ``mixing`` says.

    Args:
        mixing: shares of the three options.
        sources: where unrelated sounds come from: the mixture itself.
        seed: of every draw.

    Raises:
        ConfigurationError: an option needs sounds and the mixture has none.
    """

    def __init__(self, mixing: recipe.Mixing, sources: Sequence[Source], *, seed: int) -> None:
        self._mixing, self._seed = mixing, seed
        is_unpaired = mixing.unpaired_image_audio > 0 or mixing.unpaired_video_audio > 0
        self._sounds = _Sounds(sources, _is_sound_question, "sound alone") if is_unpaired else None
        self._any_sounds = _Sounds(sources, _has_sound, "sound") if mixing.matching_questions > 0 else None

    def __call__(self, sample: Sample, pick: Pick) -> Sample:
        draw = _Draw(hashed(self._seed, _MIX, pick.epoch, pick.slot))
        match _only_clip(sample):
            case ImagePart(sound=None) as image if draw.below(self._mixing.unpaired_image_audio, _SHARE):
                return self._with_unrelated_sound(sample, image, draw, both=BOTH_QUESTIONS_OF_IMAGES)
            case VideoPart(use_audio=False) as video if draw.below(self._mixing.unpaired_video_audio, _SHARE):
                if not draw.below(BOTH_QUESTIONS_OF_VIDEOS, _BOTH):
                    return sample
                return self._with_unrelated_sound(sample, video, draw, both=1.0)
            case ImagePart(sound=sound) | VideoPart(sound=sound) as clip if (
                clip.sound is not None or (isinstance(clip, VideoPart) and clip.use_audio)
            ) and draw.below(self._mixing.matching_questions, _SHARE):
                return self._asked_to_match(sample, clip, draw, own=clip.source if sound is None else sound)
        return sample

    def _with_unrelated_sound(self, sample: Sample, clip: ImagePart | VideoPart, draw: _Draw, *, both: float) -> Sample:
        assert self._sounds is not None
        donor = self._sounds.draw(draw)
        if donor is None or not _is_one_question(sample):
            return sample
        changed, (system, turns) = _with_sound(clip, _sound_of(donor)), _split(sample)
        seconds = max(sample.seconds, donor.seconds)
        if draw.below(both, _BOTH):
            question, answer = self._both(sample, donor, draw, kind="image" if isinstance(clip, ImagePart) else "video")
        else:
            question, answer = turns[0].text, sample.answer
        return replace(sample, messages=(*system, user(changed, question), assistant(answer)), seconds=seconds)

    def _both(self, sample: Sample, donor: Sample, draw: _Draw, *, kind: str) -> tuple[str, str]:
        """Both questions in one sentence and both answers, in either order."""
        asked = [(kind, sample), ("sound", donor)]
        if draw.below(0.5, _ORDER):
            asked.reverse()
        first, second = (
            QUESTIONS_OF[kind].format(question=_inside(sample.question[-1].text)) for kind, sample in asked
        )
        question = JOINT.format(first=first.rstrip(" .?!"), second=second)
        answers = [sample.answer.strip() for _, sample in asked]
        if answers[0][-1] not in ".!?":
            answers[0] += "."
        return question[0].upper() + question[1:], " ".join(answers)

    def _asked_to_match(self, sample: Sample, clip: ImagePart | VideoPart, draw: _Draw, *, own: MediaSource) -> Sample:
        assert self._any_sounds is not None
        question = MATCHING_QUESTIONS[draw.below_number(len(MATCHING_QUESTIONS), _WORDS)]
        answer, seconds = YES, sample.seconds
        if draw.below(WRONG_SOUNDS, _WRONG):
            donor = self._any_sounds.draw(draw, other_than=own)
            if donor is None:
                return sample
            clip, answer = _with_sound(clip, _sound_of(donor)), NO
            seconds = max(seconds, donor.seconds)
        return replace(sample, messages=(*_split(sample)[0], user(clip, question), assistant(answer)), seconds=seconds)


@dataclass(frozen=True)
class _Draw:
    """Random numbers of one place in the stream."""

    key: int

    def below(self, share: float, purpose: int) -> bool:
        return uniform(self.key, purpose) < share

    def below_number(self, number: int, *purpose: int) -> int:
        return hashed(self.key, *purpose) % number


class _Sounds:
    """Samples that have a sound to give, drawn from the sources that have any."""

    def __init__(self, sources: Sequence[Source], is_fit: Callable[[Sample], bool], what: str) -> None:
        self._is_fit = is_fit
        self._sources = [source for source in sources if any(map(self._fits, _probes(source)))]
        if not self._sources:
            raise ConfigurationError(
                f"data.mixing needs samples with {what}, and among {NUM_PROBES} of each source there is none",
                allowed=f"a mixture in which a source has samples with {what}",
                advice="Add such a source, or leave data.mixing out",
            )
        self._borders = np.cumsum([len(source) for source in self._sources])

    def draw(self, draw: _Draw, *, other_than: MediaSource | None = None) -> Sample | None:
        """A fitting sample whose sound is not ``other_than``; None when many draws found none."""
        for number in range(NUM_TRIES):
            place = draw.below_number(int(self._borders[-1]), _SOUND, number)
            source = int(np.searchsorted(self._borders, place, side="right"))
            record = place - (int(self._borders[source - 1]) if source else 0)
            sample = _read(self._sources[source], record)
            if self._fits(sample) and sample is not None and _sound_of(sample) != other_than:
                return sample
        return None

    def _fits(self, sample: Sample | None) -> bool:
        return sample is not None and self._is_fit(sample)


def _probes(source: Source) -> list[Sample | None]:
    return [_read(source, int(number)) for number in np.linspace(0, len(source) - 1, NUM_PROBES).astype(int)]


def _read(source: Source, number: int) -> Sample | None:
    try:
        return source.read(number)
    except ManifestError:
        return None


def _only_clip(sample: Sample) -> MediaPart | None:
    media = sample.media
    return media[0] if len(media) == 1 else None


def _split(sample: Sample) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """The system message, if there is one, and the rest."""
    number = int(sample.messages[0].role == "system")
    return sample.messages[:number], sample.messages[number:]


def _is_one_question(sample: Sample) -> bool:
    turns = _split(sample)[1]
    return len(turns) == 2 and bool(turns[0].text.strip())


def _is_sound_question(sample: Sample) -> bool:
    return isinstance(_only_clip(sample), AudioPart) and _is_one_question(sample)


def _has_sound(sample: Sample) -> bool:
    match _only_clip(sample):
        case AudioPart():
            return True
        case VideoPart(use_audio=True):
            return True
        case ImagePart(sound=sound):
            return sound is not None
    return False


def _sound_of(sample: Sample) -> MediaSource:
    clip = _only_clip(sample)
    assert clip is not None
    return clip.source if isinstance(clip, AudioPart) or clip.sound is None else clip.sound


def _with_sound(clip: ImagePart | VideoPart, sound: MediaSource) -> ImagePart | VideoPart:
    if isinstance(clip, VideoPart):
        return replace(clip, sound=sound, use_audio=True)
    return replace(clip, sound=sound)


def _inside(question: str) -> str:
    """The question as it stands inside a sentence: small first letter, unless the word is "I" or an abbreviation."""
    question = question.strip()
    return question[0].lower() + question[1:] if question[1:2].islower() or question[:2] == "A " else question
