"""A submission for tests: mu from the number of events, without any dependency on SAGE."""

import math

SIGNAL, BACKGROUND = 20.0, 19_000.0


class Model:
    def __init__(self, get_train_set=None, systematics=None):
        self._systematics = systematics
        self.last_result = None

    def fit(self):
        print("fitting")

    def predict(self, test_set):
        print("predicting", end="")
        count = len(test_set["data"]) + 0.01 * float(test_set["data"]["PRI_met"].mean())
        mu = (count - BACKGROUND) / SIGNAL
        width = math.sqrt(count) / SIGNAL
        self.last_result = {"status": "ok" if mu > 0 else "negative", "count": count, "spread": float("nan")}
        return {"mu_hat": mu, "delta_mu_hat": width, "p16": mu - width, "p84": mu + width}
