"""`celery -A worker.app ...` and Flower: the one file where something happens at import."""

from shared.queue import make_celery
from shared.settings import load_settings

app = make_celery(load_settings())
