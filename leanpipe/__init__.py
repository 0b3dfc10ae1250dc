"""leanpipe: what a stage does. This package knows torch and text; it knows neither Prefect nor MLflow."""

from leanpipe.models.late_torchao import import_torchao_late

import_torchao_late()  # whoever imports transformers after us imports no torchao with it
