"""Run by a fresh process: asks an unpacked submission everything a harness might, and prints what it said as JSON.

Its arguments are the folder and a pickle of test sets by name and of training events. Nothing of the checkout is on the
path.
"""

import inspect
import json
import pickle
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path


def ask(model, test_set):
    """Return an answer, what is known about it, and whether it holds the floats the challenge asks for."""
    answer = model.predict(test_set)
    result = model.last_result
    plain = all(type(value) is float for value in answer.values())
    return {"answer": answer, "plain": plain, "status": result.status, "flags": result.flags}


def ask_restored(content, test_set):
    """Ask a model that arrives as a pickle."""
    return ask(pickle.loads(content), test_set)


def main():
    folder, given = sys.argv[1:]
    sys.path.append(folder)
    sets, train = pickle.loads(Path(given).read_bytes())
    import sage
    from model import Model

    asked = Path(given).with_name("asked.txt")
    asked.unlink(missing_ok=True)

    def get_train_set(train_size=None):
        with asked.open("a") as stream:  # it may run in a process of its own
            print(train_size, file=stream)
        return train

    model = Model(get_train_set, lambda: None, model_type="BDT", more=1)
    before = pickle.dumps(model)
    said = {"sage": sage.__file__, "parameters": list(inspect.signature(Model).parameters), "returned": [model.fit()]}
    said["fitted"] = {"report": model.fit_report, "asked": len(asked.read_text().splitlines())}
    said["first"] = {name: ask(model, test_set) for name, test_set in sets.items()}
    said["again"] = {name: ask(model, sets[name]) for name in reversed(sets)}
    said["restored"] = ask_restored(pickle.dumps(model), sets["events"])
    said["not fitted"] = ask_restored(before, sets["events"])
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        said["spawned"] = executor.submit(ask_restored, pickle.dumps(model), sets["events"]).result()

    alone = Model()
    said["returned"].append(alone.fit())
    said["without a loader"] = {"report": alone.fit_report, **ask(alone, sets["events"])}
    rebuilt = Model(get_train_set, rebuilding="rebuild")
    said["returned"].append(rebuilt.fit())
    said["rebuilt"] = {"report": rebuilt.fit_report, **ask(rebuilt, sets["events"])}
    said["modules"] = sorted({name.partition(".")[0] for name in sys.modules})
    print(json.dumps(said))


if __name__ == "__main__":
    main()
