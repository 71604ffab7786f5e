"""A forest of decision trees that reads handwritten digits.

Leaves vote in 1024ths, and there are 32 trees: every sum of votes is a multiple of 2^-15 no larger than 1, which
float32 holds exactly, so that no order of adding moves a bit of the output.
"""

from typing import Any

import numpy as np
import sklearn
from onnx import ModelProto, TensorProto, helper
from sklearn.ensemble import ExtraTreesClassifier

from testnet.models.learn.adam import Array
from testnet.models.train.data import SEED, Rows, shift_rows, split_digits
from testnet.models.train.digits import LABELS
from testnet.models.train.graphs import Port, Trained, build_model
from testnet.models.train.scores import DIGITS, score_labels

TREES = 32
LEAVES = 400  # of 200, 300 and 400, the best of a 4-fold cross-validation over the training rows alone
FEATURES = 16  # tried at each split
VOTE = 1024  # parts a tree's vote is divided into


def train_trees() -> Trained:
    training, heldout = split_digits()
    forest = train_forest(shift_rows(training))
    model = build_trees(forest)
    return Trained(
        name="digits-trees",
        kind="classify",
        model=model,
        source="digits",
        heldout=score_labels(model, heldout, DIGITS),
        training={"seed": SEED, "rows": len(training.inputs), "scikit-learn": sklearn.__version__},
        labels=LABELS,
    )


def train_forest(rows: Rows) -> ExtraTreesClassifier:
    forest = ExtraTreesClassifier(TREES, max_leaf_nodes=LEAVES, max_features=FEATURES, random_state=0)
    return forest.fit(rows.inputs, rows.targets)


def build_trees(forest: ExtraTreesClassifier) -> ModelProto:
    """float32 (batch, 64) pixels 0..16 → float32 (batch, 10): each digit's share of the votes."""
    attributes: dict[str, Any] = {name: [] for name in _NODE_ATTRIBUTES + _CLASS_ATTRIBUTES}
    for number, estimator in enumerate(forest.estimators_):
        _add_tree(attributes, number, estimator.tree_)
    node = helper.make_node(
        "TreeEnsembleClassifier",
        ["pixels"],
        ["label", "votes"],
        domain="ai.onnx.ml",
        classlabels_int64s=list(range(len(LABELS))),
        post_transform="NONE",
        **attributes,
    )
    inputs, outputs = [Port("pixels", TensorProto.FLOAT, (64,))], [Port("votes", TensorProto.FLOAT, (10,))]
    return build_model("digits-trees", [node], {}, inputs, outputs)


def divide_vote(shares: Array) -> Array:
    """A leaf's shares of labels, which add up to 1, as whole parts of VOTE; the largest takes what rounding leaves.

    >>> divide_vote(np.array([1 / 3, 2 / 3])).tolist()
    [341, 683]
    """
    parts: Array = np.floor(shares * VOTE).astype(np.int64)
    parts[parts.argmax()] += VOTE - parts.sum()
    return parts


_NODE_ATTRIBUTES = [
    "nodes_treeids",
    "nodes_nodeids",
    "nodes_featureids",
    "nodes_values",
    "nodes_modes",
    "nodes_truenodeids",
    "nodes_falsenodeids",
]
_CLASS_ATTRIBUTES = ["class_treeids", "class_nodeids", "class_ids", "class_weights"]


def _add_tree(attributes: dict[str, Any], number: int, tree: Any) -> None:
    for place in range(tree.node_count):
        is_leaf = tree.children_left[place] == tree.children_right[place]
        # Pixels are whole numbers, so a split between two of them may stand at the lower one.
        threshold = 0.0 if is_leaf else float(np.floor(tree.threshold[place]))
        values = (
            number,
            place,
            0 if is_leaf else int(tree.feature[place]),
            threshold,
            "LEAF" if is_leaf else "BRANCH_LEQ",
            0 if is_leaf else int(tree.children_left[place]),
            0 if is_leaf else int(tree.children_right[place]),
        )
        for name, value in zip(_NODE_ATTRIBUTES, values, strict=True):
            attributes[name].append(value)
        if is_leaf:
            for label, parts in enumerate(divide_vote(tree.value[place, 0])):
                if parts:
                    for name, value in zip(
                        _CLASS_ATTRIBUTES, (number, place, label, parts / (VOTE * TREES)), strict=True
                    ):
                        attributes[name].append(value)
