"""Written by ``native/build.py``: the library that belongs to this source."""

SHA256 = "1b23008f6defc127c096b9bf1d6e299182eaa25ec373edab24668db7e059ab9e"
