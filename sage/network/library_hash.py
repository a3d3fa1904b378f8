"""Written by ``native/build.py``: the library that belongs to this source."""

SHA256 = "3b7d4a47699e8a3a5b790d0664ea7b1b32b2b808e9bd6ae92f32d3d14b2b15af"
