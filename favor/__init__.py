"""FAVOR: a language model that watches video and hears its sound (Sun et al., arXiv 2310.05863).

    from favor.chat import Chat
    from favor.messages import VideoPart, user

    Chat.load("tiny").answer([user(VideoPart("clip.mp4"), "What happens after the bell rings?")])

Where things are: ``messages`` the vocabulary, ``media`` decoding, ``processor`` messages to tensors, ``sync`` the
arithmetic of steps and windows, ``encoders`` eyes and ears, ``connector`` and ``causal_qformer`` the trained heart,
``modeling`` the whole model, ``presets`` named models, ``chat`` answers, ``errors`` all that is raised on purpose.
"""

__version__ = "0.1.0"
