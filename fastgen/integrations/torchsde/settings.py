"""Names of methods, kinds of noise and of equations: `torchsde.settings`."""

from __future__ import annotations


class ContainerMeta(type):
    """Classes that contain the values of their attributes."""

    def all(cls) -> list[str]:
        """The values, sorted."""
        return sorted(v for k, v in vars(cls).items() if not k.startswith("__"))

    def __str__(cls) -> str:
        return str(cls.all())

    def __contains__(cls, item: object) -> bool:
        return item in cls.all()


class METHODS(metaclass=ContainerMeta):
    """Methods of `sdeint`."""

    euler = "euler"
    milstein = "milstein"
    srk = "srk"
    midpoint = "midpoint"
    reversible_heun = "reversible_heun"
    adjoint_reversible_heun = "adjoint_reversible_heun"
    heun = "heun"
    log_ode_midpoint = "log_ode"
    euler_heun = "euler_heun"


class NOISE_TYPES(metaclass=ContainerMeta):  # noqa: N801
    """Kinds of noise."""

    general = "general"
    diagonal = "diagonal"
    scalar = "scalar"
    additive = "additive"


class SDE_TYPES(metaclass=ContainerMeta):  # noqa: N801
    """Kinds of equations."""

    ito = "ito"
    stratonovich = "stratonovich"


class LEVY_AREA_APPROXIMATIONS(metaclass=ContainerMeta):  # noqa: N801
    """What a motion knows of its Levy areas."""

    none = "none"
    space_time = "space-time"
    davie = "davie"
    foster = "foster"


class METHOD_OPTIONS(metaclass=ContainerMeta):  # noqa: N801
    """Options of methods."""

    grad_free = "grad_free"
