"""Cross-validates a classifier of handwritten digits over a few settings and keeps the best one.

Records a run for each setting, and a last one for the model: the best setting, trained on all of the training data and
scored once on images that no setting was chosen by.
"""

import csv
import json
import sys
from pathlib import Path

import dotscience as ds
import joblib
import numpy
import sklearn
from sklearn.model_selection import StratifiedKFold, cross_validate, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.svm import SVC

DATA = Path("digits.csv")
FOLDS = 5
SETTINGS = [
    {"kernel": "linear", "C": 1.0},
    {"kernel": "poly", "C": 1.0, "degree": 3},
    {"kernel": "rbf", "C": 1.0, "gamma": 0.001},
    {"kernel": "rbf", "C": 1.0, "gamma": 0.1},
    {"kernel": "rbf", "C": 10.0, "gamma": 0.1},
]


def classifier(setting):
    return make_pipeline(MinMaxScaler(), SVC(**setting))


def name_of(setting):
    return "-".join([setting["kernel"], *(f"{key}{value:g}" for key, value in setting.items() if key != "kernel")])


def write_table(path, columns, rows):
    path.parent.mkdir(exist_ok=True)
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def evaluate(setting, images, digits):
    """Records a run for one setting and returns its mean accuracy."""
    ds.start()
    ds.input(DATA)
    ds.add_parameters(**setting, folds=FOLDS)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    scores = cross_validate(classifier(setting), images, digits, cv=folds, scoring=("accuracy", "f1_macro"))
    accuracy, f1 = scores["test_accuracy"], scores["test_f1_macro"]
    ds.add_metrics(
        accuracy=f"{accuracy.mean():.4f}", accuracy_std=f"{accuracy.std():.4f}", f1_macro=f"{f1.mean():.4f}"
    )
    name = name_of(setting)
    rows = [[fold, f"{a:.4f}", f"{f:.4f}"] for fold, (a, f) in enumerate(zip(accuracy, f1), 1)]
    write_table(ds.output(Path("scores") / f"{name}.csv"), ["fold", "accuracy", "f1_macro"], rows)
    ds.publish(f"cross-validated {name}")
    print(f"{name}: accuracy {accuracy.mean():.4f} over {FOLDS} folds")
    return accuracy.mean()


def train(setting, ranking, images, digits, held_out):
    """Records a run for the model itself."""
    ds.start()
    ds.input(DATA)
    ds.add_parameters(**setting)
    model = classifier(setting).fit(images, digits)
    accuracy = ds.metric("test_accuracy", f"{model.score(*held_out):.4f}")
    rows = [[name, f"{score:.4f}"] for name, score in ranking]
    write_table(ds.output(Path("scores") / "ranking.csv"), ["setting", "accuracy"], rows)
    folder = Path("model")
    folder.mkdir(exist_ok=True)
    classes = folder / "classes.json"
    classes.write_text(json.dumps({str(digit): str(digit) for digit in range(10)}, indent=2))
    joblib.dump(model, ds.model(sklearn, "digits", folder / "digits.joblib", classes=classes))
    ds.publish(f"trained the best setting, {name_of(setting)}")
    print(f"best: {name_of(setting)}, accuracy {accuracy} on {len(held_out[1])} images held out")


def main():
    if not DATA.exists():
        sys.exit(f"{DATA} is missing: run prepare.py first, it writes it")
    ds.script()
    table = numpy.loadtxt(DATA, delimiter=",", skiprows=1)
    images, test_images, digits, test_digits = train_test_split(
        table[:, :-1], table[:, -1].astype(int), test_size=0.2, random_state=0, stratify=table[:, -1]
    )
    scores = [evaluate(setting, images, digits) for setting in SETTINGS]
    ranking = sorted(zip(map(name_of, SETTINGS), scores), key=lambda row: -row[1])
    best = SETTINGS[scores.index(max(scores))]
    train(best, ranking, images, digits, (test_images, test_digits))


if __name__ == "__main__":
    main()
