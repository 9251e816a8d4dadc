"""A model of one's own, as small as can be: put yours in its place."""

from pydantic import BaseModel

from worker.handler import Handler


class Text(BaseModel):
    """What a client sends, and gets."""

    text: str


class Shout(Handler[Text, Text]):
    """Capital letters."""

    task = "shout"
    example = [Text(text="warm me up")]
    uses_torch = False

    def predict(self, batch: list[Text]) -> list[Text]:
        """All of a batch at once."""
        return [Text(text=item.text.upper()) for item in batch]
