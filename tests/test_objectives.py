"""fastce.objectives: LightGBM and XGBoost train with it as with their own objectives."""

import copy
import pickle

import numpy as np
import pytest
import scipy.special

import fastce
from fastce.objectives import logistic, softmax

CONVENTIONS = ["exact", "xgboost", "lightgbm", "absolute"]
LIGHTGBM = {"verbose": -1, "num_threads": 2, "num_leaves": 7, "boost_from_average": False}
XGBOOST = {"nthread": 2, "verbosity": 0, "max_depth": 3}


class Dataset:
    """What both libraries' datasets have."""

    def __init__(self, labels, weight=None):
        self.labels, self.weight = labels, weight

    def get_label(self):
        return self.labels

    def get_weight(self):
        return self.weight


@pytest.fixture
def lightgbm():
    return pytest.importorskip("lightgbm")


@pytest.fixture
def xgboost():
    return pytest.importorskip("xgboost")


def problem(name, seed=0):
    """(features, labels, weights) of a data set of scikit-learn, half of its rows each, to train and to validate."""
    datasets = pytest.importorskip("sklearn.datasets")
    features, labels = getattr(datasets, f"load_{name}")(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))[:800]
    parts = order[: len(order) // 2], order[len(order) // 2 :]
    weights = rng.uniform(0.2, 3.0, len(labels)).astype(np.float32)
    return [(features[part], labels[part], weights[part]) for part in parts]


def log_loss(labels, probabilities, weights=None):
    metrics = pytest.importorskip("sklearn.metrics")
    return metrics.log_loss(labels, probabilities, sample_weight=weights, labels=range(np.shape(probabilities)[1]))


def derivatives(labels, scores, weights, hessian, smoothing=0.0, class_weight=None):
    """(gradient, Hessian) in float64 by the formulas of the contract."""
    scores = scores.astype(np.float64)
    classes = scores.shape[1]
    p = scipy.special.softmax(scores, axis=1)
    q = (1 - smoothing) * np.eye(classes)[labels.astype(int)] + smoothing / classes
    q = q * (np.ones(classes) if class_weight is None else np.asarray(class_weight))
    v = np.ones(len(labels)) if weights is None else weights.astype(np.float64)
    mass = q.sum(1, keepdims=True)
    gradient, h = v[:, None] * (p * mass - q), v[:, None] * mass * p * (1 - p)
    if hessian == "absolute":
        return gradient, np.maximum(np.abs(gradient), 1e-16)
    if hessian == "xgboost":
        return gradient, np.maximum(2 * h, 1e-16)
    return gradient, h * (classes / (classes - 1) if hessian == "lightgbm" else 1)


# --------------------------------------------------------------------------------------------- derivatives
@pytest.mark.parametrize("hessian", CONVENTIONS)
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}, {"class_weight": [1.0, 2.0, 0.5, 3.0]}])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_derivatives_are_those_of_the_formulas(rng, dtype, options, hessian):
    scores, labels = (2 * rng.normal(size=(50, 4))).astype(dtype), rng.integers(0, 4, 50).astype(np.float32)
    weights = rng.random(50).astype(np.float32)
    smoothing, of_classes = options.get("label_smoothing", 0.0), options.get("class_weight")
    expected = derivatives(labels, scores, weights, hessian, smoothing, of_classes)
    for actual, exact in zip(softmax(4, hessian=hessian, **options)(labels, scores, weights), expected, strict=True):
        assert actual.dtype == np.float32
        np.testing.assert_allclose(actual, exact, rtol=3e-6, atol=1e-6)


def test_the_gradient_is_the_slope_of_the_metric(rng):
    scores, labels, weights = rng.normal(size=(6, 3)), rng.integers(0, 3, 6), rng.random(6)
    objective = softmax(3, label_smoothing=0.1, class_weight=[1.0, 2.0, 0.5])
    total = (weights * np.array([1.0, 2.0, 0.5])[labels]).sum()
    grad, _ = objective(labels, scores, weights)
    for i, c in [(0, 0), (3, 2), (5, 1)]:
        step = np.zeros_like(scores)
        step[i, c] = 1e-5
        up, down = (objective.metric(labels, scores + sign * step, weights)[1] for sign in (1, -1))
        assert grad[i, c] == pytest.approx((up - down) / 2e-5 * total, abs=1e-5)


@pytest.mark.parametrize("options", [{}, {"pos_weight": 3.0}, {"label_smoothing": 0.2, "pos_weight": 0.5}])
def test_the_binary_derivatives_are_those_of_the_formulas(rng, options):
    scores, labels, weights = 3 * rng.normal(size=40), rng.integers(0, 2, 40).astype(np.float32), rng.random(40)
    scores[:2] = -80.0, 80.0
    e, positive = options.get("label_smoothing", 0.0), options.get("pos_weight", 1.0)
    y, p = (1 - e) * labels + e / 2, scipy.special.expit(scores)
    grad, hess = logistic(**options)(labels, scores, weights)
    assert grad.dtype == hess.dtype == np.float32
    np.testing.assert_allclose(grad, weights * (positive * y * (p - 1) + (1 - y) * p), rtol=2e-6, atol=1e-6)
    exact = weights * (positive * y + 1 - y) * p * scipy.special.expit(-scores)
    np.testing.assert_allclose(hess, exact, rtol=1e-5, atol=1e-38)


def test_who_calls_chooses_the_hessian(rng, xgboost):
    scores, labels = rng.normal(size=(5, 3)), np.array([0.0, 1, 2, 1, 0])
    auto = softmax(3)
    of_lightgbm = softmax(3, hessian="lightgbm")(labels, scores).hess
    of_xgboost = softmax(3, hessian="xgboost")(labels, scores.astype(np.float32)).hess
    np.testing.assert_array_equal(auto(labels, scores).hess, of_lightgbm)
    np.testing.assert_array_equal(auto(scores, Dataset(labels)).hess, of_lightgbm)
    by_version = auto(labels, scores.astype(np.float32)).hess
    matrix = xgboost.DMatrix(np.zeros((5, 1)), label=labels)
    np.testing.assert_array_equal(auto(scores, matrix).hess, by_version)
    changed = softmax(3, hessian="absolute")(labels, scores.astype(np.float32)).hess
    assert np.array_equal(by_version, of_xgboost) != np.array_equal(by_version, changed)


# ------------------------------------------------------------------------------------- what comes in and out
def test_layouts_keep_their_form(rng):
    scores, labels = rng.normal(size=(7, 3)), rng.integers(0, 3, 7).astype(float)
    before = scores.copy()
    objective = softmax(3)
    expected = objective(labels, scores)
    assert expected.grad.flags.c_contiguous
    for actual, plain in zip(objective(labels, np.asfortranarray(scores)), expected, strict=True):
        assert actual.flags.f_contiguous
        np.testing.assert_array_equal(actual, plain)
    for actual, plain in zip(objective(labels, scores.ravel(order="F")), expected, strict=True):
        assert actual.shape == (21,)
        np.testing.assert_array_equal(actual, plain.ravel(order="F"))
    np.testing.assert_array_equal(scores, before)


def test_one_class_is_certain_and_two_are_the_logistic(rng):
    scores, labels = rng.normal(size=8), rng.integers(0, 2, 8)
    grad, hess = softmax(1)(np.zeros(8), scores)
    assert not grad.any()
    assert not hess.any()
    assert grad.shape == (8,)
    two = softmax(2, hessian="exact")(labels, np.stack([np.zeros(8), scores], axis=1))
    one = logistic()(labels, scores)
    np.testing.assert_allclose(two.grad[:, 1], one.grad, atol=1e-6)
    np.testing.assert_allclose(two.hess[:, 1], one.hess, atol=1e-6)


def test_no_rows():
    grad, hess = softmax(3)(np.empty(0), np.empty((0, 3)))
    assert grad.shape == hess.shape == (0, 3)
    assert logistic()(np.empty(0), np.empty(0)).grad.shape == (0,)


@pytest.mark.parametrize(
    ("objective", "labels", "message"),
    [
        (softmax(3), [0.0, 1.5, 2.0], r"labels must be whole numbers from 0 to 2, got 1\.5 in row 1"),
        (softmax(3), [0.0, 1.0, 3.0], r"labels must be whole numbers from 0 to 2, got 3\.0 in row 2"),
        (softmax(3), [-1.0, 1.0, 3.0], r"labels must be whole numbers from 0 to 2, got -1\.0 in row 0"),
        (softmax(3), [0.0, np.nan, 3.0], "labels must be whole numbers from 0 to 2, got nan in row 1"),
        (softmax(3), [0.0, 1e20, 3.0], r"labels must be whole numbers from 0 to 2, got 1e\+20 in row 1"),
        (logistic(), [0.0, 2.0, 1.0], r"labels must be from 0 to 1, got 2\.0 in row 1"),
        (logistic(), [0.0, 1.0, np.nan], "labels must be from 0 to 1, got nan in row 2"),
    ],
)
def test_wrong_labels_are_named(objective, labels, message):
    scores = np.zeros((3, 3)) if objective == softmax(3) else np.zeros(3)
    for function in (objective, objective.metric):
        with pytest.raises(ValueError, match=message):
            function(np.array(labels), scores)


def test_other_errors_are_one_sentence():
    with pytest.raises(ValueError, match=r"scores have shape \(3, 4\), expected \(3, 3\)"):
        softmax(3)([0, 1, 2], np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"scores have shape \(3, 2\), expected \(3,\)"):
        logistic()([0, 1, 1], np.zeros((3, 2)))
    with pytest.raises(TypeError, match="the dataset has no labels"):
        softmax(3)(np.zeros((3, 3)), Dataset(None))
    with pytest.raises(ValueError, match="num_class must be at least 1, got 0"):
        softmax(0)
    with pytest.raises(ValueError, match="hessian must be one of 'auto', 'exact'"):
        softmax(3, hessian="diagonal")
    with pytest.raises(ValueError, match="class_weight"):
        softmax(3, class_weight=[1.0, 2.0])
    with pytest.raises(ValueError, match="label_smoothing"):
        logistic(label_smoothing=1.5)


# ------------------------------------------------------------------------------------------------ the metric
def test_the_metric_is_the_log_loss_in_the_form_of_the_library(rng, xgboost):
    scores, labels, weights = rng.normal(size=(30, 4)), rng.integers(0, 4, 30), rng.random(30)
    metric = softmax(4).metric
    expected = log_loss(labels, scipy.special.softmax(scores, axis=1), weights)
    assert metric(labels, scores, weights) == ("softmax_loss", pytest.approx(expected), False)
    assert metric(scores, Dataset(labels, weights)) == ("softmax_loss", pytest.approx(expected), False)
    assert metric(labels, scores.astype(np.float32), sample_weight=weights) == pytest.approx(expected, rel=1e-6)
    matrix = xgboost.DMatrix(np.zeros((30, 1)), label=labels, weight=weights)
    assert metric(scores.astype(np.float32), matrix) == ("softmax_loss", pytest.approx(expected, rel=1e-6))
    binary = logistic().metric(labels > 1, scores[:, 0], weights)
    p = scipy.special.expit(scores[:, 0])
    assert binary[1] == pytest.approx(log_loss(labels > 1, np.stack([1 - p, p], axis=1), weights))


@pytest.mark.parametrize("objective", [softmax(3, label_smoothing=0.1, class_weight=[1, 2, 3]), logistic()])
def test_objectives_are_copied_compared_and_pickled(objective):
    for one in (objective, objective.metric):
        assert copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one
        assert hash(one) == hash(copy.copy(one))
    assert objective != softmax(3)


# -------------------------------------------------------------------------------------------------- LightGBM
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["digits", "breast_cancer"])
@pytest.mark.slow
def test_lightgbm_learns_what_its_own_objective_learns(lightgbm, name, weighted):
    (features, labels, weights), (others, other_labels, _) = problem(name)
    classes = labels.max() + 1
    objective, own = (softmax(10), "multiclass") if classes > 2 else (logistic(), "binary")
    settings = LIGHTGBM if classes == 2 else {**LIGHTGBM, "num_class": 10}
    if classes > 2:  # it begins at 0 there only if it is told so
        start = np.zeros((len(labels), classes))
    boosters = []
    for chosen in (objective, own):
        data = lightgbm.Dataset(features, label=labels, weight=weights if weighted else None)
        if classes > 2:
            data.set_init_score(start)
        boosters.append(lightgbm.train({**settings, "objective": chosen}, data, num_boost_round=20))
    ours, theirs = (booster.predict(others, raw_score=True) for booster in boosters)
    losses = [objective.metric(other_labels, scores)[1] for scores in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=0.03)
    first = (booster.predict(features, raw_score=True, num_iteration=1) for booster in boosters)
    np.testing.assert_allclose(*first, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The argument 'eval_set' is deprecated")  # the only one of older versions
def test_lightgbm_in_scikit_learn_is_the_same(lightgbm, weighted):
    (features, labels, weights), (others, other_labels, _) = problem("digits")
    objective = softmax(10)
    settings = {"n_estimators": 5, "num_leaves": 7, "n_jobs": 2, "verbose": -1}
    model = lightgbm.LGBMClassifier(objective=objective, **settings)
    weights = weights if weighted else None
    model.fit(features, labels, sample_weight=weights, eval_set=[(others, other_labels)], eval_metric=objective.metric)
    data = lightgbm.Dataset(features, label=labels, weight=weights)
    booster = lightgbm.train({**LIGHTGBM, "num_class": 10, "objective": objective}, data, num_boost_round=5)
    scores = booster.predict(others, raw_score=True)
    np.testing.assert_allclose(model.predict(others, raw_score=True), scores, rtol=1e-6)
    losses = model.evals_result_["valid_0"]["softmax_loss"]
    assert losses[-1] == pytest.approx(log_loss(other_labels, fastce.softmax(scores, axis=1)), rel=1e-6)


@pytest.mark.slow
def test_lightgbm_stops_early_by_the_metric_from_init_scores(lightgbm):
    (features, labels, _), (others, other_labels, _) = problem("digits")
    objective, shares = softmax(10), np.log(np.bincount(labels, minlength=10) / len(labels))
    start = np.broadcast_to(shares, (len(labels), 10))
    data = lightgbm.Dataset(features, label=labels, init_score=start)
    valid = data.create_valid(others, other_labels, init_score=np.broadcast_to(shares, (len(other_labels), 10)))
    log = {}
    settings = {**LIGHTGBM, "num_class": 10, "objective": objective, "learning_rate": 1.0}
    callbacks = [lightgbm.early_stopping(3, verbose=False), lightgbm.record_evaluation(log)]
    booster = lightgbm.train(settings, data, 40, valid_sets=[valid], feval=objective.metric, callbacks=callbacks)
    losses = log["valid_0"]["softmax_loss"]
    assert booster.best_iteration == np.argmin(losses) + 1 < 40
    scores = booster.predict(others, raw_score=True, num_iteration=1) + shares
    assert losses[0] == pytest.approx(log_loss(other_labels, fastce.softmax(scores, axis=1)), rel=1e-6)


# --------------------------------------------------------------------------------------------------- XGBoost
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["digits", "breast_cancer"])
@pytest.mark.slow
def test_xgboost_learns_what_its_own_objective_learns(xgboost, name, weighted):
    (features, labels, weights), (others, other_labels, _) = problem(name)
    classes = labels.max() + 1
    objective, own = (softmax(10), "multi:softprob") if classes > 2 else (logistic(), "binary:logistic")
    settings = XGBOOST if classes == 2 else {**XGBOOST, "num_class": 10}
    start = np.zeros((len(labels), 10) if classes > 2 else len(labels))
    data = xgboost.DMatrix(features, label=labels, weight=weights if weighted else None, base_margin=start)
    valid = xgboost.DMatrix(others, label=other_labels, base_margin=np.zeros((len(others), *start.shape[1:])))
    ours = xgboost.train({**settings, "disable_default_eval_metric": True}, data, 20, obj=objective)
    theirs = xgboost.train({**settings, "objective": own}, data, 20)
    scores = [booster.predict(valid, output_margin=True) for booster in (ours, theirs)]
    losses = [objective.metric(of_booster, valid)[1] for of_booster in scores]
    assert losses[0] == pytest.approx(losses[1], rel=0.03)
    first = (b.predict(data, output_margin=True, iteration_range=(0, 1)) for b in (ours, theirs))
    np.testing.assert_allclose(*first, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.slow
def test_xgboost_in_scikit_learn_is_the_same(xgboost, weighted):
    (features, labels, weights), (others, other_labels, _) = problem("digits")
    objective, weights = softmax(10), weights if weighted else None
    start, other_start = (np.zeros((len(part), 10)) for part in (labels, other_labels))
    settings = {"n_estimators": 5, "max_depth": 3, "n_jobs": 2}
    model = xgboost.XGBClassifier(objective=objective, eval_metric=objective.metric, **settings)
    model.fit(
        features, labels, sample_weight=weights, base_margin=start, eval_set=[(others, other_labels)],
        base_margin_eval_set=[other_start], verbose=False,
    )  # fmt: skip
    data = xgboost.DMatrix(features, label=labels, weight=weights, base_margin=start)
    valid = xgboost.DMatrix(others, base_margin=other_start)
    booster = xgboost.train({**XGBOOST, "num_class": 10, "disable_default_eval_metric": True}, data, 5, obj=objective)
    scores = booster.predict(valid, output_margin=True)
    np.testing.assert_allclose(
        model.predict_proba(others, base_margin=other_start), fastce.softmax(scores, axis=1), rtol=1e-5
    )
    expected = log_loss(other_labels, fastce.softmax(scores.astype(float), axis=1))
    assert model.evals_result()["validation_0"]["softmax_loss"][-1] == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_xgboost_stops_early_by_the_metric(xgboost):
    (features, labels, _), (others, other_labels, _) = problem("digits")
    objective, log = softmax(10, label_smoothing=0.1), {}
    data, valid = xgboost.DMatrix(features, label=labels), xgboost.DMatrix(others, label=other_labels)
    settings = {**XGBOOST, "num_class": 10, "disable_default_eval_metric": True, "eta": 1.0}
    booster = xgboost.train(
        settings, data, 40, obj=objective, custom_metric=objective.metric, evals=[(valid, "valid")],
        early_stopping_rounds=3, evals_result=log, verbose_eval=False,
    )  # fmt: skip
    losses = log["valid"]["softmax_loss"]
    assert booster.best_iteration == np.argmin(losses) < 39


# ----------------------------------------------------------------------------------------------- scikit-learn
def test_models_with_an_objective_are_cloned(lightgbm, xgboost):
    clone = pytest.importorskip("sklearn.base").clone
    joblib = pytest.importorskip("joblib")
    objective = softmax(3)
    for model in (lightgbm.LGBMClassifier(objective=objective), xgboost.XGBClassifier(objective=objective)):
        assert clone(model).get_params()["objective"] == objective
        assert joblib.hash(clone(model).get_params()["objective"]) == joblib.hash(objective)
