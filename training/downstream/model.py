"""What is fine-tuned: an adapter between two frozen encoders, and a task's head on what they tell.

Shapes: B clips, T segments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from favor.checkpoint import refuse_problems
from favor.encoders import JointEncoder
from favor.media import SAMPLE_RATE_HZ
from training.downstream.baselines import AloneOptions, put_lora
from training.downstream.clips import Batch
from training.downstream.contract import Head, Seen, Streams
from training.downstream.hosts import OpenHost
from training.downstream.recipe import Plan


class FineTuned(nn.Module):
    """Encoders, adapter and head. Only what is trained, and the running statistics beside it, is its ``state``.

    The encoders stay in evaluation mode, whatever this module's: the published runs left drop-path on and statistics
    drifting in them (adapters.md 2.6, 3.5).
    """

    def __init__(self, plan: Plan, host: OpenHost) -> None:
        super().__init__()
        given, task = plan.recipe, plan.task
        self.num_segments, self.needs_other_video = task.num_segments, task.needs_other_video
        self.encoders = nn.ModuleList([host.visual] if host.audio is host.visual else [host.visual, host.audio])
        options = AloneOptions() if given.adapter == "bottleneck" else given.adapter_options
        self.joint = JointEncoder(
            host.visual, host.audio, options, audio_tokens=host.audio_tokens, keep_stages=task.needs_stages
        )
        self.head: Head[Any] = task.build_head(plan.head_settings, streams_of(host, plan))
        if given.adapter == "lora":
            for encoder in (host.visual, host.audio)[: len(self.encoders)]:
                put_lora(encoder, r=given.lora.r, alpha=given.lora.alpha)
        if given.train_norms:
            for module in self.encoders.modules():
                if isinstance(module, nn.LayerNorm):
                    module.requires_grad_(True)

    def forward(self, batch: Batch) -> tuple[Seen, Any]:
        """What is seen, and the head's output."""
        made = self.joint(batch.frames, batch.sound, batch.meetings)
        audio = batch.meetings.cut(made.audio)[batch.pieces].flatten(1, 2)  # (B * T, n * M, E)
        maps = made.audio_pooling
        seen = Seen(
            visual=made.visual,
            audio=audio,
            num_segments=self.num_segments,
            visual_pooling=made.visual_pooling,
            audio_pooling=None if maps is None else maps[batch.pieces].flatten(1, 2) / batch.pieces.shape[1],
            stages=made.visual_stages,
            other_visual=self._other(batch),
            text=batch.text,
            text_mask=batch.text_mask,
        )
        return seen, self.head(seen)

    def loss(self, batch: Batch) -> Tensor:
        """The task's, and what the adapter adds to it: the mean over the batch's clips."""
        seen, output = self(batch)
        loss: Tensor = self.head.loss(output, batch.targets)
        if self.joint.options is not None:
            own = self.joint.options.losses(seen.visual, seen.audio, self.joint.layers)
            loss = loss if own is None else loss + own
        return loss

    def _other(self, batch: Batch) -> Tensor | None:
        """Another video's frames through the frozen encoder alone (adapters.md 2.5)."""
        if batch.other_frames is None:
            return None
        with torch.no_grad():
            return self.joint.visual(batch.other_frames)

    def adapter_parameters(self) -> list[nn.Parameter]:
        """All that is trained but the head."""
        heads = set(self.head.parameters())
        return [weight for weight in self.parameters() if weight.requires_grad and weight not in heads]

    def state(self) -> dict[str, Tensor]:
        """What is trained, and buffers of adapter and head, by name; weights that layers share come once."""
        kept = {name: weight.detach() for name, weight in self.named_parameters() if weight.requires_grad}
        kept |= {name: values for name, values in self.named_buffers() if not name.startswith("encoders.")}
        return {name: values.cpu().clone() for name, values in kept.items()}

    def load_state(self, state: Mapping[str, Tensor], *, name: str) -> None:
        """What :meth:`state` gave.

        Raises:
            CheckpointError: names or shapes that differ.
        """
        own = self.state()
        refuse_problems(
            name,
            {
                "missing_keys": sorted(own.keys() - state.keys()),
                "unexpected_keys": sorted(state.keys() - own.keys()),
                "mismatched_keys": [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape],
            },
        )
        places = dict(self.named_parameters()) | dict(self.named_buffers())
        with torch.no_grad():
            for key, values in state.items():
                places[key].copy_(values)

    def save(self, file: Path) -> None:
        draft = file.with_suffix(".draft")
        save_file(self.state(), draft)
        draft.replace(file)

    def load(self, file: Path) -> None:
        self.load_state(load_file(file), name=file.name)


def streams_of(host: OpenHost, plan: Plan) -> Streams:
    """What the head is told of the encoders."""
    seen, heard = host.visual.shapes(), host.audio.shapes()
    ends = [one for one, after in pairwise(seen) if one.stage != after.stage]
    per_piece = heard[-1].num_tokens if host.audio_tokens is None else host.audio_tokens
    silence = host.hear(np.zeros(SAMPLE_RATE_HZ, dtype=np.float32), plan.task.num_segments)
    audio = replace(heard[-1], num_tokens=per_piece * silence.pieces.shape[1])
    return Streams(visual=seen[-1], audio=audio, stages=(*ends, seen[-1]))
