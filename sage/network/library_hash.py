"""Written by ``native/build.py``: the library that belongs to this source."""

SHA256 = "4c63943cdc54312a5575c058af9e35a6299215e7250dba69d735f14dd6f291c5"
