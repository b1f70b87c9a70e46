"""Writes the sound files of this folder.

    python make.py          (pip install soundfile==0.14.0 numpy; it brings libsndfile 1.2.2 with LAME, Vorbis, Opus and FLAC)

All are the same second of sound: a sine of 1,000 Hz and amplitude 0.5, in stereo with the right channel silent where there are two.
"""

import numpy as np
import soundfile as sf


def tone(rate, channels=1):
    left = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)
    return left if channels == 1 else np.stack([left, np.zeros(rate)], axis=1)


for name, rate, channels, form in [
    ("tone-22050.ogg", 22050, 1, dict(format="OGG", subtype="VORBIS")),
    ("tone-44100-stereo.mp3", 44100, 2, dict(format="MP3", subtype="MPEG_LAYER_III")),
    ("tone-16000.mp3", 16000, 1, dict(format="MP3", subtype="MPEG_LAYER_III", bitrate_mode="VARIABLE")),
    ("tone-48000-stereo-24.flac", 48000, 2, dict(format="FLAC", subtype="PCM_24")),
    ("tone-8000-adpcm.wav", 8000, 1, dict(format="WAV", subtype="IMA_ADPCM")),
    ("tone-8000-ulaw.wav", 8000, 1, dict(format="WAV", subtype="ULAW")),
    ("tone-16000-opus.ogg", 16000, 1, dict(format="OGG", subtype="OPUS")),
]:
    sf.write(name, tone(rate, channels), rate, **form)
