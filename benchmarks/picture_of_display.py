"""The picture of the display in the README: trains for a while and keeps what is on the screen.

    python benchmarks/picture_of_display.py --evaluations 3 -o demo/display.svg -- --env Pong-v0

Runs main.py with the options after `--`, in a folder that is thrown away, until there are so many
evaluations. The display draws on a console that records what is drawn.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import contextlib
import io
import os
import re
import shlex
import tempfile

from rich.console import Console

import main
from display import Display
from stopping import StopSignal


def take_picture(evaluations: int, rows: int, columns: int) -> str:
    """An SVG of the last screen of main.py with the options in sys.argv.

    SystemExit: the run ended before there were so many evaluations.
    """
    stop_signal = StopSignal().install()
    console = Console(
        file=open(os.devnull, "w", encoding="utf-8"),  # noqa: SIM115, as long as the process lives
        record=True, force_terminal=True, color_system="truecolor", width=columns, height=rows,
    )  # fmt: skip
    pictures: list[str] = []

    class PhotographedDisplay(Display):
        def update(self) -> None:
            super().update()
            if self.evaluations >= evaluations and not pictures:
                console.export_text()  # forgets what it recorded
                self.next_update = 0.0
                super().update()
                title = shlex.join(["python", *sys.argv])
                pictures.append(console.export_svg(title=title, unique_id="display"))
                stop_signal.received = True

    main.Console, main.can_show, main.Display = lambda: console, bool, PhotographedDisplay
    with contextlib.redirect_stdout(io.StringIO()) as output:
        main.main(None, stop_signal)
    if not pictures:
        sys.exit(f"the run has ended:\n{output.getvalue()}")
    # Without the web font: a picture of a page loads nothing.
    return re.sub(r"\s*@font-face \{.*?\}", "", pictures[0], flags=re.DOTALL)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--evaluations", type=int, default=3, help="of which it shows the last")
    parser.add_argument("--rows", type=int, default=28)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="an SVG")
    parser.add_argument("options", nargs="*", help="of main.py")
    given = parser.parse_args()
    sys.argv = ["main.py", *given.options]
    path = given.output.absolute()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        path.write_text(take_picture(given.evaluations, given.rows, given.columns))
        os.chdir(path.parent)  # Windows removes no folder that somebody is in
