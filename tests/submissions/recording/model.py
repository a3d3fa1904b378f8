"""A submission for tests that writes down what it is asked; runs in the official program and in ours."""

import json
import os
from pathlib import Path

from summary import summary


class Model:
    def __init__(self, get_train_set=None, systematics=None):
        self.file = Path(os.environ["RECORD_TO"])

    def fit(self):
        self.file.touch()

    def predict(self, test_set):
        with self.file.open("a") as stream:
            stream.write(json.dumps(summary(test_set)) + "\n")
        return {"mu_hat": 1.0, "delta_mu_hat": 0.5, "p16": 0.5, "p84": 1.5}
