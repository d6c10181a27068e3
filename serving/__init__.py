"""The OpenAI-compatible server: ``python -m serving``.

    GET  /health                 200 when the model is ready, else 503; the one route that never asks for the key
    GET  /v1/models              the served model
    GET  /v1/models/{id}         the same by its name
    POST /v1/chat/completions    a conversation with pictures, sounds and videos; whole or as a stream

Content parts of a user's message: ``text``; ``video_url`` and ``image_url`` as ``{"url": "data:<type>;base64,..."}``;
``input_audio`` as ``{"data": "<base64>", "format": "wav"}``. A URL that would have to be fetched is refused. A video is
asked about together with its own sound. A picture directly followed by a sound, in one message, is one clip: the
picture is shown for as long as the sound lasts.

Fields: ``model``, ``messages``, ``max_completion_tokens`` (or ``max_tokens``), ``temperature`` (left out: greedy),
``top_p``, ``seed``, ``stop``, ``stream``, ``stream_options.include_usage``. A known field that would change the answer
and is not served is an error; an unknown one is named in ``warnings`` of the response.

Beside the official fields a response has ``media_report``: for every clip, in the order of the request, what was seen
and heard of it. In a stream it is on the chunk with the finish reason.
"""
