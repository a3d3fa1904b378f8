"""Written by ``native/build.py``: the library that belongs to this source."""

SHA256 = "576e1cb9d65bcb0cc4dbdbc4fd1f761789c87c6011c07e92981267ae784bdac1"
