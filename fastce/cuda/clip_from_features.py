"""CLIP's loss from features on a GPU, in panels of products: states of rows and columns first, then the gradients."""

from typing import Any

from fastce.arguments.numbers import fraction, positive, reduction_of
from fastce.arguments.positives import check_pairs, checked_shape
from fastce.arguments.silence import quietly
from fastce.cuda.arrays import DeviceArray
from fastce.cuda.features import Features, dtype_of_losses, dtype_of_products, feature_arrays
from fastce.cuda.panels import Panels
from fastce.cuda.positives import device_positives
from fastce.cuda.products import seen, working_in
from fastce.cuda.similarity import Similarity
from fastce.products.progress import Progress
from fastce.typing import ClipFromFeaturesValueAndGrad


def clip_loss_from_features(**given: Any) -> Any:
    """See `fastce.clip_loss_from_features`."""
    call = _Call(given, sweeps=1)
    with working_in(call.library), call.progress, quietly():
        call.find_sides()
        return call.similarity.value()[0]


def clip_loss_from_features_value_and_grad(**given: Any) -> ClipFromFeaturesValueAndGrad:
    """See `fastce.clip_loss_from_features_value_and_grad`."""
    call = _Call(given, sweeps=2)
    with working_in(call.library), call.progress, quietly():
        call.find_sides()
        of_image, of_text = call.gradients()
        (image,), _ = call.left.finished(of_image, wants_sum=False)
        (text,), _ = call.right.finished(of_text, wants_sum=False)
        value, grad_logit_scale = call.similarity.value()
    return ClipFromFeaturesValueAndGrad(value, image, text, grad_logit_scale)


class _Call:
    """A checked call."""

    def __init__(self, given: dict[str, Any], sweeps: int) -> None:
        names = ["image_features", "text_features"]
        arrays = feature_arrays([given[name] for name in names], names)
        self.library = arrays[0].library
        reduction = reduction_of(given["reduction"])
        shape = checked_shape(arrays, given["targets"])
        check_pairs(shape, reduction)
        positives = device_positives(given["targets"], shape, self.library)
        scale = positive(given["logit_scale"], "logit_scale")
        smoothing = fraction(given["label_smoothing"], "label_smoothing")
        dtype = dtype_of_products(arrays, scale, normalize=given["normalize"])
        with working_in(self.library), quietly():
            self.left, self.right = (Features([array], dtype, given["normalize"]) for array in arrays)
            self.panels = Panels(self.left, self.right, given["memory_budget"])
        number = len(self.panels.row_cuts)
        self.similarity = Similarity(
            self.library, shape, dtype.name, positives, scale, smoothing, reduction, number,
            of_losses=dtype_of_losses(arrays).name,
        )  # fmt: skip
        self.progress = Progress(given["progress"], sweeps * number, "clip_loss_from_features", "panel")

    def find_sides(self) -> None:
        """The first sweep."""

        def work(rows: slice, panel: DeviceArray) -> None:
            self.similarity.read(panel, rows.start)

        self.panels.sweep(work, self.progress)
        self.similarity.take_sides()

    def gradients(self) -> tuple[DeviceArray, DeviceArray]:
        """The second sweep, for which a panel that is the only one is still there."""
        of_left, of_right = self.left.new_gradient(), self.right.new_gradient()
        left, right = seen(of_left), seen(of_right)

        def work(rows: slice, panel: DeviceArray) -> None:
            self.similarity.write_gradient(panel, panel, rows.start)
            self.panels.add_to_left(seen(panel), left[rows])
            self.panels.add_to_right(rows, seen(panel), right)

        self.panels.sweep(work, self.progress, is_there=len(self.panels.row_cuts) == 1)
        return of_left, of_right
