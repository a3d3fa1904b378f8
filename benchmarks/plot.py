"""The picture of a benchmark report."""

from __future__ import annotations

from typing import Any

from workshop.plots import drawn, new_figure


@drawn
def draw(report: dict[str, Any]) -> Any:
    """Draw stages per number of threads, the speed of the networks, and the growth with the number of events.

    Args:
        report: What ``benchmarks.predict`` writes as JSON.
    """
    figure, panels = new_figure(11, 3.6, columns=3)
    stages, networks, growth = panels[0]

    for i, (threads, found) in enumerate(report["threads"].items()):
        label = f"{threads} thread{'s' if threads != '1' else ''}: predict {found['predict']['seconds']:.2f} s"
        places = [k + 0.4 * i for k in range(len(found["stages"]))]
        stages.barh(places, [stage["seconds"] for stage in found["stages"].values()], height=0.38, label=label)
        stages.set_yticks([k + 0.2 for k in range(len(found["stages"]))], list(found["stages"]))
    stages.invert_yaxis()
    stages.set_xlabel(f"seconds for {report['events']:,} events")
    stages.legend(fontsize="small", loc="lower right")

    speeds = report["network_events_per_s"]
    names = ["torch_geometric", "torch", "native"]
    bars = networks.barh(names, [speeds[name] for name in names])
    times = [f" {speeds[name] / speeds['torch_geometric']:.1f} x" for name in names]
    networks.bar_label(bars, times)
    networks.set_xlim(right=1.25 * speeds["native"])
    networks.set_xlabel("events per second, network only, one thread")

    sizes = [int(size) for size in report["growth"]]
    if sizes:
        growth.loglog(sizes, [found["seconds"] for found in report["growth"].values()], "o-", color="C0")
        growth.set_xlabel("events")
        growth.set_ylabel("seconds of predict, one thread", color="C0")
        memory = growth.twinx()
        memory.semilogx(sizes, [found["memory_mb"] for found in report["growth"].values()], "s--", color="C1")
        memory.set_ylabel("peak memory above the input, MB", color="C1")
        memory.set_ylim(bottom=0)
    else:
        growth.set_axis_off()
    return figure
