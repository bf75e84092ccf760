"""Objectives and metrics for gradient boosting: LightGBM and XGBoost train with the losses of fastce.

`softmax` is an objective for several classes, `logistic` one for two. Both libraries take it as it is, in their own
functions and in their classes for scikit-learn, and its ``metric``, the same loss, too::

    objective = fastce.objectives.softmax(3, label_smoothing=0.1)

    lightgbm.train({"objective": objective, "num_class": 3}, dataset, feval=objective.metric, valid_sets=[valid])
    lightgbm.LGBMClassifier(objective=objective).fit(x, y, eval_X=u, eval_y=v, eval_metric=objective.metric)
    xgboost.train({"num_class": 3}, matrix, obj=objective, custom_metric=objective.metric, evals=[(valid, "valid")])
    xgboost.XGBClassifier(objective=objective, eval_metric=objective.metric).fit(x, y, eval_set=[(u, v)])

An objective gives gradient and Hessian of the loss in float32, as both libraries store them, in the layout of the
scores. Weights are included: no library multiplies them into what a custom objective gives.

>>> import numpy as np, fastce
>>> labels, scores = np.array([0.0, 1.0]), np.array([[2.0, 1.0, 0.1], [0.5, 1.5, 0.8]])
>>> grad, hess = fastce.objectives.softmax(3)(labels, scores, np.array([1.0, 2.0]))
>>> grad.round(3)
array([[-0.341,  0.242,  0.099],
       [ 0.395, -0.927,  0.533]], dtype=float32)

**Who calls.** A second argument with ``get_label`` is the dataset of a library's own functions, which give the scores
first. Otherwise labels come first, then scores, then weights if there are any, as in scikit-learn. There the dtype of
the scores tells the libraries apart: LightGBM's are float64, XGBoost's float32.

**Where training starts.** Both libraries start their own objectives from the classes' shares, and a custom one from 0,
unless it is given ``init_score`` (LightGBM) or ``base_margin`` (XGBoost). Of the same start they build the same trees.

**What is predicted** with a custom objective are scores, by LightGBM's classes too, whose ``predict_proba`` warns of
it: `fastce.softmax` makes probabilities of them. `xgboost.XGBClassifier` gives probabilities.
"""

from fastce.objectives.functions import Logistic, LogisticLoss, Softmax, SoftmaxLoss, logistic, softmax

__all__ = ["Logistic", "LogisticLoss", "Softmax", "SoftmaxLoss", "logistic", "softmax"]
