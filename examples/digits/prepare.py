"""Writes the handwritten digits that scikit-learn ships as digits.csv, and records a run that says so.

One row for each image: 64 pixels from 0 to 16, row by row, then the digit that it shows.
"""

import csv

import dotscience as ds
from sklearn.datasets import load_digits

ds.script()
ds.start()

digits = load_digits()
with open(ds.output("digits.csv"), "w", newline="") as file:
    table = csv.writer(file)
    table.writerow([f"pixel{i}" for i in range(64)] + ["digit"])
    for image, digit in zip(digits.data.astype(int), digits.target):
        table.writerow([*image, digit])

ds.parameter("source", "sklearn.datasets.load_digits")
ds.metric("images", len(digits.target))
ds.publish("digits as a table")
