"""The generated world in the official formats of the downstream tasks, so that adapters learn and are compared on
clips whose answer needs both streams, through the readers and scorers that the real data use.

``python -m training downstream-data TASK OUT --clips N --seed S`` writes mp4 clips and annotation files; nothing but
TASK, N, S and the picture's size decides what is in them (the mp4 encoder rounds a little differently from run to run),
and a run that was cut off goes on where it stopped.

ave      Which event, and in which seconds? A category is a sound kind and a shape, "bell circle": a circle that rings
         (wears its bright ring) while a bell is heard. 7 sounds x 4 shapes are the 28 classes that reader and scorer
         insist on; the eighth sound belongs to no class. Each clip holds one event and, as often and as long, two
         decoys: a sound from off the screen (mostly the event's) and rings without a sound of any class (mostly of the
         event's thing). Sound alone knows no shape, picture alone no sound, and each finds the event's seconds no
         better than one run of two: neither beats calling everything background.
avvp     Which classes are heard, and which are seen, in each second? A thing's *voice* follows from its shape and
         size (``cast.VOICES``); its class is seen while it rings, and heard while its voice is, together or apart.
         The eight kinds borrow the names of eight of LLP's 25 classes, the only names that the format knows
         (``avvp.CLASS_NAMES``). Train clips have weak labels alone. Sound alone can tell all that is heard, but of what
         is seen only that it is often heard, too; picture alone the other way round.
avs-s4   Which pixels sound, in five frames? One thing sounds in every second; another rings with it and keeps silent.
         The sound kind tells which of them has that voice. Picture alone finds the two, sound alone knows no place.
avs-ms3  The same with up to two sounds at once of up to three ringing things; none at times, or one off the screen.
avqa     Questions in the nine types of MUSIC-AVQA; within a type every answer is right equally often, give or take
         two. Audio and Visual types need one stream, Audio-Visual types both: rings and sounds are drawn apart, so
         that taking every ring for a sound is hardly better than guessing.

Measured on a fixed seed (tests/training/test_world_official.py), in %; both streams together reach 100 everywhere:

                                              nothing   sound alone   picture alone
ave, segments                                   70.5        48.0          46.0     told the class: 81.8 and 84.8
avvp, Type@AV of segments                        2.5        58.7          61.0     saying the same of both streams
avs-s4, mIoU                                     0.0           -          49.7     all that rings; 52.5 one of it
avs-ms3, mIoU                                   19.0           -          60.2     all that rings; 48.7 one of it
avqa, Audio-Visual types                           -        41.9          44.4     taking all sounds, rings, as made

Train, val and test hold 70, 10 and 20 % of the clips. In train and val, nothing sounds in a combination of colour,
shape and sound that :mod:`training.world.splits` holds out; in every second test clip all that sounds does, AVE's
eighth sound apart.

cast      names, splits, things and beats, for all tasks        command   the command
ave, avvp, avs, avqa    plan a task's clips; write its annotation files
"""
