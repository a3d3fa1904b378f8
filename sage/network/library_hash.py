"""Written by ``native/build.py``: the library that belongs to this source."""

SHA256 = "9468ed21d4f463d9591fb28a1f6ff259ad4785f8f3630c86e77f2c048b89343b"
