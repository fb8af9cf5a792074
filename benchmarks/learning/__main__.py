"""Ways of training Stage-1 side by side, with the same data, seeds and budget of tuning.

    python -m benchmarks.learning --photographs DATA --mobilenet DIRECTORY
    python -m benchmarks.learning --quick --table b

Table a: real photographs and a pretrained MobileNetV2, one city held out at a time. Table b: synthetic scenes of a
shifted domain and a small DINOv3 that was pretrained without labels on another domain. Every training is a process of
its own with one thread, two at a time; a run that was stopped goes on where it was. Learning rates are tuned for each
row with the same budget, on val_select.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

from benchmarks.learning.arena import Workplace
from benchmarks.learning.methods import TABLES
from benchmarks.learning.plan import Plan
from benchmarks.learning.report import report
from benchmarks.learning.running import Queue
from benchmarks.learning.scale import FULL, QUICK


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=sorted(TABLES), help="one of the tables; both if left out")
    parser.add_argument("--photographs", default="", help="data directory with labels.csv, for table a")
    parser.add_argument("--mobilenet", default="", help="directory of a pretrained MobileNetV2, for table a")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each row; 1 if quick")
    parser.add_argument("--quick", action="store_true", help="sizes at which nothing is learned, to see that it runs")
    parser.add_argument("--out", type=Path, default=Path(".cache/learning"), help="where everything is kept")
    options = parser.parse_args()
    if options.table != "b" and not (options.photographs and options.mobilenet):
        parser.error("table a needs --photographs and --mobilenet")
    return options


def main() -> None:
    options = _options()
    # Ends the tasks too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; start it again and it goes on"))
    scale = QUICK if options.quick else FULL
    home = (options.out / scale.name).resolve()
    paths = [str(Path(path).resolve()) if path else "" for path in (options.photographs, options.mobilenet)]
    place = Workplace(home, scale, *paths)
    place.write()
    seeds = 1 if options.quick else options.seeds
    plans = [Plan(TABLES[name], scale, seeds) for name in sorted(TABLES) if options.table in {None, name}]
    begun = time.monotonic()
    results = Queue(place, plans).run()
    text = "\n\n".join(report(place, plan, results) for plan in plans)
    place.path("tables.md").write_text(text + "\n")
    print(text)
    print(f"\n{(time.monotonic() - begun) / 60:.1f} minutes; also in {place.path('tables.md')}", file=sys.stderr)


if __name__ == "__main__":
    main()
