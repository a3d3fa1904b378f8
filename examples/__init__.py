"""Worked examples: problems whose exact answer is known, for methods that the submission does not use."""
