"""Why names of discrete flow matching are not here."""

DISCRETE = (
    "discrete flow matching is not offered, only continuous states are; import it from "
    "flow_matching itself"
)
