"""What a person sees of quantising: which module and which weight became what, and how large the models are."""

from collections.abc import Mapping
from pathlib import Path

from leanpipe.compression.formats import Format
from leanpipe.compression.gguf_export import GgufPlan
from leanpipe.core.plots import draw_bars


def write_report(
    sizes: dict[str, int],
    kept: list[str],
    quantized: list[str],
    unfit: Mapping[Format, list[str]],
    folder: Path,
) -> None:
    """List for each module which formats it is in, and draw the sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {form: {*kept, *names} for form, names in unfit.items()}
    rows = [
        f"{name}," + ",".join(str(name in names) for names in whole.values())
        for name in sorted([*kept, *quantized])
    ]
    header = "module," + ",".join(f"{form} full precision" for form in whole)
    (folder / "modules.csv").write_text("\n".join([header, *rows]) + "\n")
    bars = [(name, size / 1e6) for name, size in sizes.items()]
    written = [f"{size:,.1f} MB, {size / bars[0][1]:.0%}" for _, size in bars]
    draw_bars(folder / "size.png", "Weights on disk", bars, unit="MB", written=written)


def write_stored(plans: Mapping[Format, GgufPlan], folder: Path) -> None:
    """List for each weight of a GGUF file its shape, its type and its bytes."""
    lines = ["format,tensor,shape,type,bytes"]
    lines += [
        f"{form},{one.name},{' x '.join(map(str, one.shape))},{one.type},{one.bytes}"
        for form, plan in plans.items()
        for one in plan.tensors
    ]
    if plans:
        (folder / "stored.csv").write_text("\n".join(lines) + "\n")
