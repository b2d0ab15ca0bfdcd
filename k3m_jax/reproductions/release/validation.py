"""What the `release` preset rules out."""

from k3m_jax.settings import Settings, Structure, UserError
from k3m_jax.settings.schema import check_multiple

RELEASED_STRUCTURE = Structure(heads=1, activation="before", residual="identity", combine="concat")


def validate_release(settings: Settings) -> None:
    """Raises UserError for settings that the authors' public code does not have."""
    model = settings.model
    interactor = model.interactor
    for key, schedule, layers in (
        ("model.interactor.text_layers", interactor.text_layers, model.text.layers),
        ("model.interactor.image_layers", interactor.image_layers, model.image.layers),
    ):
        if len(schedule) != interactor.blocks:
            raise UserError(
                f"{key} has {len(schedule)} numbers for {interactor.blocks} model.interactor.blocks"
            )
        if list(schedule) != sorted(schedule) or schedule[-1] > layers:
            raise UserError(f"{key}: {schedule} does not rise, or passes the {layers} layers")
    if model.structure != RELEASED_STRUCTURE:
        raise UserError(f"model.structure: model.preset 'release' has {RELEASED_STRUCTURE}")
    # Titles and knowledge interact at the width of the text encoder.
    check_multiple("model.text.width", model.text.width, "model.interactor.heads", interactor.heads)
    if settings.objectives.mom.variant != "kl":
        raise UserError("objectives.mom.variant: model.preset 'release' has only 'kl'")
    if settings.task.name == "questions":
        raise UserError("task.name: model.preset 'release' encodes no answers to questions")
