"""Written by ``native/build.py``: the library that belongs to this source."""

SHA256 = "54be5a7171cf6a71c76c72e8163f0688999dc5709989a944d317da9975a08963"
