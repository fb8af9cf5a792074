"""How many images val_calib must hold before an exit rule can be certified.

    python examples/plan_calibration.py
    python examples/plan_calibration.py --alpha 0.01 --miss-rate 0.002

Pictures of one place or drive count as one image. `cascade plan` tells more: how many to label so that so many reach
val_calib, subgroups and coverage.
"""

from typing import Annotated

import typer

# A module, because the package has no names for these.
from stage1.certificate.statistics.sample_size import POWERS, Question, fewest, need


def main(
    alpha: Annotated[float, typer.Option(min=1e-4, max=0.5, help="Highest miss rate on exits to certify.")] = 0.02,
    delta: Annotated[float, typer.Option(min=1e-4, max=0.5, help="One minus the confidence.")] = 0.10,
    miss_rate: Annotated[float, typer.Option(min=0, max=1, help="The one you expect of the model.")] = 0.005,
) -> None:
    """How many images val_calib must hold before an exit rule can be certified."""
    question = Question(alpha=alpha, delta=delta, expected_rate=miss_rate)
    print(f"With fewer than {fewest(question)} roadwork images that exit, nothing can be certified.")
    print(f"If {question.prevalence:.0%} of the images show roadwork, and {question.exit_share:.0%} of that exits:")
    for power in POWERS:
        found = need(question, power)
        if found is None:
            print("No number of images is enough: the model misses about as much as may be certified, or more.")
            return
        print(
            f"To succeed with probability {power}, val_calib holds {found.images} images: of {found.positives} with "
            f"roadwork {found.exited} exit, and at most {found.losses} of these may be missed."
        )


if __name__ == "__main__":
    typer.run(main)
