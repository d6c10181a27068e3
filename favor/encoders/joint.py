"""Two frozen encoders run side by side, so that an adapter can see both between the halves of their layers.

Shapes: F frames, K rows of sound, N and M tokens of a frame and of a piece of sound, D and E widths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from favor.adapters.contract import AdapterLayer, AdapterOptions, Additions
from favor.encoders.layered import LayeredEncoder
from favor.encoders.meetings import Meetings, spread
from favor.encoders.pairing import pairs, sites


class JointOutput(NamedTuple):
    """What both encoders make of a batch.

    Args:
        visual: (F, N, D). audio: (K, tokens of a row, E).
        visual_pooling: (F, N), audio_pooling: (K * S, M): the last pair's weights of the tokens, from adapters that
            give them.
        visual_stages: (F, N_s, D_s) each, of an encoder that ``keep_stages``: the tokens at the end of every stage,
            before they are merged; the last are ``visual``.
    """

    visual: Tensor
    audio: Tensor
    visual_pooling: Tensor | None = None
    audio_pooling: Tensor | None = None
    visual_stages: tuple[Tensor, ...] = ()


class JointEncoder(nn.Module):
    """Two encoders with an adapter between them.

    Its weights are the adapter's alone: the encoders belong to whoever made them, who also moves, saves and freezes
    them.

    Args:
        visual, audio: may be one and the same, for both streams.
        options: of the adapter; None runs the encoders as they are.
        audio_tokens: of a piece of sound, where the audio encoder's own ``shape`` tells of something else (a row of
            many pieces, a spectrogram of another size than the images).
        keep_stages: give the visual tokens of every stage too, for decoders of masks (adapters.md 2.5).
    """

    def __init__(
        self,
        visual: LayeredEncoder,
        audio: LayeredEncoder,
        options: AdapterOptions | None = None,
        *,
        audio_tokens: int | None = None,
        keep_stages: bool = False,
    ) -> None:
        super().__init__()
        self._encoders = (visual, audio)  # a tuple, so that they do not become its submodules
        self.options = options
        self.is_checkpointing = False
        self.keep_stages = keep_stages
        seen, heard = visual.shapes(), audio.shapes()
        self._stage_ends = {one.layer for one, after in pairwise(seen) if one.stage != after.stage}
        if audio_tokens is not None:
            heard = [replace(shape, num_tokens=audio_tokens) for shape in heard]
        self.pairs, self.sites = pairs(seen, heard), sites(seen, heard)
        self.layers = nn.ModuleList() if options is None else options.build(self.sites)

    @property
    def visual(self) -> LayeredEncoder:
        return self._encoders[0]

    @property
    def audio(self) -> LayeredEncoder:
        return self._encoders[1]

    def forward(self, frames: Tensor, sound: Tensor, meetings: Meetings) -> JointOutput:
        """Run both from their inputs, (F, ...) and (K, ...), to their last tokens."""
        state = JointOutput(_begin(self.visual, frames), _begin(self.audio, sound))
        for place, pair in enumerate(self.pairs):
            if self.is_checkpointing and torch.is_grad_enabled():
                state = checkpoint(self._site, state, place, pair, meetings, use_reentrant=False)
            else:
                state = self._site(state, place, pair, meetings)
        visual = _end(self.visual, state.visual)
        stages = (*state.visual_stages, visual) if self.keep_stages else ()
        return state._replace(visual=visual, audio=_end(self.audio, state.audio), visual_stages=stages)

    def _site(
        self, state: JointOutput, place: int, pair: tuple[int | None, int | None], meetings: Meetings
    ) -> JointOutput:
        """One site: both halves of both layers, then what follows the layers."""
        layer = self.layers[place] if len(self.layers) else AdapterLayer()
        assert isinstance(layer, AdapterLayer), type(layer)
        visual, audio = _Stream(self.visual, pair[0], state.visual), _Stream(self.audio, pair[1], state.audio)
        seen = _visual_prompts(layer, visual, audio, meetings)
        heard = _audio_prompts(layer, visual, audio, meetings)
        first = _meet(layer.beside_attention, visual, audio, meetings)
        visual.attend(seen, first.visual)
        if layer.is_audio_after:
            audio.run(first.audio)
        else:
            audio.attend(heard, first.audio)
        second = _meet(layer.beside_mlp, visual, audio, meetings)
        visual.transform(second.visual)
        if layer.is_audio_after:
            audio.add(second.audio)
        else:
            audio.transform(second.audio)
        poolings = {
            name: _last(*(getattr(part, name) for part in (state, first, second)))
            for name in ("visual_pooling", "audio_pooling")
        }
        is_stage_end = self.keep_stages and visual.index in self._stage_ends
        stages = (*state.visual_stages, visual.hidden) if is_stage_end else state.visual_stages
        return JointOutput(visual.move_on(), audio.move_on(), visual_stages=stages, **poolings)


def _begin(encoder: LayeredEncoder, inputs: Tensor) -> Tensor:
    """The first layer's input; of an absent stream, no rows."""
    first = encoder.shape(0)
    return encoder.embed(inputs) if len(inputs) else inputs.new_zeros(0, first.num_tokens, first.width)


def _end(encoder: LayeredEncoder, hidden: Tensor) -> Tensor:
    """The encoder's output; of an absent stream, no rows of the last layer's shape."""
    last = encoder.shape(encoder.num_layers - 1)
    return encoder.finish(hidden) if len(hidden) else hidden.new_zeros(0, last.num_tokens, last.width)


def _last(*found: Tensor | None) -> Tensor | None:
    """The last that is there."""
    return next((one for one in reversed(found) if one is not None), None)


class _Stream:
    """One stream at a site; without a layer there it stays as it is."""

    def __init__(self, encoder: LayeredEncoder, index: int | None, hidden: Tensor) -> None:
        self.encoder, self.hidden = encoder, hidden
        self.has_layer = index is not None
        self.index = -1 if index is None else index

    @property
    def is_here(self) -> bool:
        return self.has_layer and len(self.hidden) > 0

    def attend(self, prompted: Sequence[_Prompted], addition: Tensor | None) -> None:
        """The first half; prompts are gone after it, for no token sees another in the second."""
        if not self.is_here:
            return
        if prompted:
            added = torch.zeros_like(self.hidden)
            for rows, prompts in prompted:
                made = self.encoder.attend(self.index, self.hidden[rows], prompts.to(added.dtype)).tokens
                added = added.index_copy(0, rows, made.to(added.dtype))
        else:
            added = self.encoder.attend(self.index, self.hidden).tokens
        self.hidden = self.hidden + added
        self.add(addition)

    def transform(self, addition: Tensor | None) -> None:
        """The second half."""
        if self.is_here:
            self.hidden = self.hidden + self.encoder.transform(self.index, self.hidden)
            self.add(addition)

    def run(self, addition: Tensor | None) -> None:
        """Both halves at once."""
        self.attend((), None)
        self.transform(addition)

    def add(self, addition: Tensor | None) -> None:
        if addition is not None:
            self.hidden = self.hidden + addition.to(self.hidden.dtype)

    def move_on(self) -> Tensor:
        return self.encoder.move_on(self.index, self.hidden) if self.is_here else self.hidden


def _meet(
    beside: Callable[[Tensor | None, Tensor | None], Additions], visual: _Stream, audio: _Stream, meetings: Meetings
) -> Additions:
    """What a layer adds to the whole streams: those that meet are given to it together, the others alone."""
    if not (visual.has_layer and audio.has_layer):
        return Additions()
    frames, pieces = visual.hidden, meetings.cut(audio.hidden)
    found = Additions()
    if len(meetings.frames):
        made = beside(frames[meetings.frames], pieces[meetings.pieces])
        found = _placed(made, frames, pieces, meetings.frames, meetings.pieces)
    if len(meetings.lone_frames):
        made = beside(frames[meetings.lone_frames], None)
        found = _sum(found, _placed(made, frames, pieces, meetings.lone_frames, meetings.lone_pieces[:0]))
    if len(meetings.lone_pieces):
        made = beside(None, pieces[meetings.lone_pieces])
        found = _sum(found, _placed(made, frames, pieces, meetings.lone_frames[:0], meetings.lone_pieces))
    return found._replace(audio=None if found.audio is None else meetings.join(found.audio))


def _placed(made: Additions, frames: Tensor, pieces: Tensor, frame_rows: Tensor, piece_rows: Tensor) -> Additions:
    """Additions to some rows as additions to all."""
    return Additions(
        spread(made.visual, frame_rows, len(frames)),
        spread(made.audio, piece_rows, len(pieces)),
        spread(made.visual_pooling, frame_rows, len(frames)),
        spread(made.audio_pooling, piece_rows, len(pieces)),
    )


def _sum(first: Additions, second: Additions) -> Additions:
    parts = zip(first, second, strict=True)
    return Additions(*(one if other is None else other if one is None else one + other for one, other in parts))


class _Prompted(NamedTuple):
    """Rows of a stream and the prompts that are attached to them: (R,), (R, P, width)."""

    rows: Tensor
    prompts: Tensor


def _visual_prompts(layer: AdapterLayer, visual: _Stream, audio: _Stream, meetings: Meetings) -> list[_Prompted]:
    """Of frames that meet a sound, and of those that do not: they may differ in number."""
    if not _has_prompts(layer) or not visual.is_here:
        return []
    frames = visual.hidden
    met, lone = (meetings.frames, meetings.moments), (meetings.lone_frames, meetings.lone_moments)
    if not audio.has_layer:  # nobody to meet at this layer
        met, lone = (met[0][:0], met[1][:0]), (torch.cat((met[0], lone[0])), torch.cat((met[1], lone[1])))
    found = []
    for (places, moments), partner in ((met, meetings.cut(audio.hidden)[meetings.pieces]), (lone, None)):
        if len(places):
            made = layer.prompts(frames[places], partner, moments).visual
            if made is not None:
                found.append(_averaged(made, places, len(frames)))
    return found


def _audio_prompts(layer: AdapterLayer, visual: _Stream, audio: _Stream, meetings: Meetings) -> list[_Prompted]:
    """Of every row of sound: it is heard as one, so its prompts are made with all frames that are seen during it."""
    if not _has_prompts(layer) or not audio.is_here:
        return []
    row_of_meeting = meetings.pieces // meetings.pieces_per_row
    found = []
    for number, row in enumerate(audio.hidden):
        is_met = row_of_meeting == number
        has_picture = visual.has_layer and bool(is_met.any())
        seen = visual.hidden[meetings.frames[is_met]].flatten(0, 1)[None] if has_picture else None  # (1, n * N, D)
        moment = meetings.moments[is_met][:1] if is_met.any() else meetings.moments.new_zeros(1)
        made = layer.prompts(seen, row[None], moment).audio
        if made is not None:
            found.append(_Prompted(torch.tensor([number], device=row.device), made))
    return found


def _averaged(made: Tensor, places: Tensor, num_rows: int) -> _Prompted:
    """Prompts once per row: a row that is met several times gets their mean."""
    rows, everywhere = places.unique(), spread(made, places, num_rows)
    assert everywhere is not None, "there are places"
    return _Prompted(rows, everywhere[rows])


def _has_prompts(layer: AdapterLayer) -> bool:
    return type(layer).prompts is not AdapterLayer.prompts
