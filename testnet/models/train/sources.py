"""Where the data came from, and under which licence."""

SOURCES = {
    "digits": {
        "dataset": "Optical Recognition of Handwritten Digits",
        "authors": "E. Alpaydin and C. Kaynak, 1998",
        "from": "UCI Machine Learning Repository, dataset 80, doi 10.24432/C50P49, by way of load_digits",
        "licence": "CC BY 4.0 (dataset); BSD-3-Clause (scikit-learn, which ships the copy)",
        "changes": "1,797 rows split by seed; pixels kept as whole numbers 0..16; rows to train on also shifted",
    },
    "cancer": {
        "dataset": "Breast Cancer Wisconsin (Diagnostic)",
        "authors": "W. Wolberg, O. Mangasarian, N. Street and W. Street, 1995",
        "from": "UCI Machine Learning Repository, dataset 17, doi 10.24432/C5DW2B, by way of load_breast_cancer",
        "licence": "CC BY 4.0 (dataset); BSD-3-Clause (scikit-learn, which ships the copy)",
        "changes": "569 rows split by seed, kept as float32",
    },
    "diabetes": {
        "dataset": "Diabetes data of Least Angle Regression",
        "authors": "B. Efron, T. Hastie, I. Johnstone and R. Tibshirani, 2004",
        "from": "www4.stat.ncsu.edu/~boos/var.select/diabetes.html, by way of scikit-learn's load_diabetes",
        "licence": "none of its own, published with the paper; BSD-3-Clause (scikit-learn, which ships the copy)",
        "changes": "442 rows split by seed, in the units they were taken in, kept as float32",
    },
    "stocks": {
        "dataset": "weekly closes of six shares, 2018 and 2019, divided by the first",
        "authors": "plotly, data of IEX",
        "from": "plotly.data.stocks, the file that the package plotly ships",
        "licence": "MIT (plotly, which ships the copy)",
        "changes": "whole millionths; windows of nine closes and what followed; GOOG held out",
    },
    "pydoc": {
        "dataset": "pydoc_data.topics of Python 3.13.0",
        "authors": "Python Software Foundation and contributors",
        "from": "the standard library of Python 3.13.0, written by testnet/models/learn/text.py",
        "licence": "PSF License Version 2, in python-topics.LICENSE",
        "changes": "each paragraph kept once; quotes, dashes and three other characters brought to ASCII",
    },
}
