"""The figures of ``speed.py`` as lines for a terminal."""

from __future__ import annotations

from typing import Any


def print_case(case: dict[str, Any]) -> None:
    """A table of one case: rate, part of the limit, and how many times as fast echo is."""
    padding = ", ".join(f"{name} {share:.0%}" for name, share in case["padding"].items())
    print(f"\n{case['shape']}, {case['dtype']}: {case['case']} ({case['tokens']:,} tokens; padding: {padding})")
    print(f"  {'system':36}{'texts/s':>10}{'tokens/s':>12}{'of limit':>10}   echo is … as fast (wall / processor time)")
    for name, figures in case["systems"].items():
        ratio = case["ratios"].get(name)
        compared = f"{ratio['wall']:.2f}× / {ratio['cpu']:.2f}×" if ratio else ""
        of_echo = (
            f"{figures['tokens_per_s']:>12,.0f}{figures['part_of_limit']:>10.1%}"
            if "tokens_per_s" in figures
            else " " * 22
        )
        print(f"  {name:36}{figures['texts_per_s']:>10.1f}{of_echo}   {compared}")
    best = case["ratios"]["sentence-transformers, best"]
    print(f"  {'sentence-transformers, its best':68}   {best['wall']:.2f}× / {best['cpu']:.2f}×")


def print_latency(key: str, figures: dict[str, Any]) -> None:
    """One query alone, then callers at once."""
    single = figures["single"]
    print(
        f"\n{key}: one query p50 {single['query']['p50_ms']:.2f} ms, p99 {single['query']['p99_ms']:.2f} ms;", end=" "
    )
    print(f"over the bare forward {single['overhead_ms']:.2f} ms, {single['overhead_share']:.0%}")
    alone = figures["callers"][0]["queries_per_s"]
    for row in figures["callers"]:
        rate = row["queries_per_s"]
        waits = f"p50 {row['p50_ms']:.1f} ms  p99 {row['p99_ms']:.1f} ms"
        print(f"  {row['callers']:>3} callers {rate:>8.1f} queries/s ({rate / alone:.1f}×)  {waits}")
