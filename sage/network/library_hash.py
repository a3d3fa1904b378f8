"""Written by ``native/build.py``: the library that belongs to this source."""

SHA256 = "30c59a43c8996d8d80101f5919a441ba4bdfe048eb2fe1f3e508fde614b11bc3"
