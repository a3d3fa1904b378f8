"""Written by ``native/build.py``: the library that belongs to this source."""

SHA256 = "9dadcfb40355aa3cd99801f52722995395b701088ea5139dee071e5259b7be26"
