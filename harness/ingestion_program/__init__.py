"""The modules that a submission finds on its path in the official run, by the same names and backed by HiggsML.

This folder comes first on a submission's path, as the folder of the official program does. The modules import nothing
of this project, which a submission does not find.
"""
