"""How many bits a training signal tells a language model, and what they cost in FLOPs.

`bitsample_llm.information`, `.estimators`, `.flops`, `.tasks` and `.records` need no torch; `InformationMeter` brings it in
when it is first asked for.
"""

__all__ = ["InformationMeter"]


def __getattr__(name: str):
    if name == "InformationMeter":
        from bitsample_llm.meter.callback import InformationMeter  # noqa: PLC0415 - torch and TRL only where they are wanted

        return InformationMeter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
