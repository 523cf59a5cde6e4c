"""An evaluator from another package."""

from shalabench.api import (
    DataSpec,
    EvalContext,
    Evaluator,
    Joint,
    Metric,
    Model,
    Outcome,
    Score,
    Split,
    register_evaluator,
)


@register_evaluator("outside-brightness", version=1)
class Brightness(Evaluator):
    """Mean brightness of joint samples."""

    needs = (Joint,)
    metrics = (Metric("brightness", "higher", 3, "mean of all pixels of the joint samples"),)

    def run(self, model: Model, spec: DataSpec, split: Split, context: EvalContext) -> Outcome:
        samples = model.sample(len(split), context.rng("joint"))
        images = [samples[m.name].double().mean() for m in spec.modalities if m.kind == "image"]
        value = float(sum(images) / len(images))
        return Outcome([Score("brightness", value, len(split))])
