"""Keeps the samples of the rounds that are done, so that a run that was interrupted can go on where it stopped."""

import json
from dataclasses import asdict

from .programs import Broken, Sample


class Rounds:
    """The file rounds.json. `conditions` are what all rounds have in common, such as the programs and the options."""

    def __init__(self, path, conditions):
        self.path, self.conditions = path, json.loads(json.dumps(conditions))

    def load(self):
        """Returns what save() was given last."""
        try:
            kept = json.loads(self.path.read_text())
        except (OSError, ValueError) as error:
            raise Broken(f"there is no run to continue: {error}") from error
        if kept["conditions"] != self.conditions:
            differing = sorted(key for key in kept["conditions"].keys() | self.conditions.keys()
                               if kept["conditions"].get(key) != self.conditions.get(key))
            raise Broken(f"the run in {self.path} can't be continued, it had other {', '.join(differing)}")
        samples = {figure: [{name: Sample(**sample) for name, sample in found.items()} for found in rounds]
                   for figure, rounds in kept["samples"].items()}
        return kept["done"], samples, kept["left_out"], kept["broken"]

    def begin(self):
        """Forgets an earlier run. Raises Broken if that was another one, and was not finished."""
        try:
            kept = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return
        if kept["conditions"] != self.conditions and kept["done"] < kept["conditions"]["rounds"]:
            raise Broken(f"{self.path} has {kept['done']} rounds of another run, which was not finished: remove the "
                         "file, or name another folder with --out")
        self.path.unlink()

    def save(self, done, samples, left_out, broken):
        """`done`: the number of rounds. The file is replaced at once, or not at all."""
        kept = {"conditions": self.conditions, "done": done, "left_out": left_out, "broken": broken,
                "samples": {figure: [{name: asdict(sample) for name, sample in found.items()} for found in rounds]
                            for figure, rounds in samples.items()}}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(kept) + "\n")
        new.replace(self.path)
