"""Written by ``native/build.py``: the library that belongs to this source."""

SHA256 = "0df594ac9e65858e646b297db613d5b6fd581187b04ef1995a3c051f2d30498b"
