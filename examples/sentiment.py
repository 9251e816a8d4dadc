"""A handler of one's own: the mood of a text, by any model for text classification.

models:
  mood:
    handler: examples/sentiment.py:Sentiment
    versions: {"1": {source: distilbert/distilbert-base-uncased-finetuned-sst-2-english}}
"""

from pydantic import BaseModel

from worker.handler import Context, Handler


class Text(BaseModel):
    """What a client sends."""

    text: str


class Mood(BaseModel):
    """What a client gets."""

    label: str
    score: float


class Sentiment(Handler[Text, Mood]):
    """The model's best label and its probability."""

    example = [Text(text="warm me up")]

    def load(self, ctx: Context) -> None:
        """Heavy imports live here."""
        from transformers import pipeline

        self.model = pipeline("text-classification", model=ctx.source, device=ctx.device)

    def predict(self, batch: list[Text]) -> list[Mood]:
        """One answer for each text, in order."""
        return [Mood(**answer) for answer in self.model([item.text for item in batch])]
