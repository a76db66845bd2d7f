"""Evaluate several scenes into one table with their mean and the published figures.

python evaluate_all.py configs/config_balloon1-2.txt configs/config_umbrella.txt
python evaluate_all.py configs/*.txt --protocol nsff-fixed --every 10

Config files come first; the options behind them apply to every scene.
"""

from nsff.cli import run_script
from nsff.config_loader import REPOSITORY, load_config
from nsff.errors import UsageError


def main(argv: list[str]) -> None:
    """Evaluate the configs named before the first option, with all options behind them."""
    if "--help" in argv or "-h" in argv:
        print(__doc__.strip() + "\nOptions: those of evaluation.py --help.")
        return
    first = next((index for index, word in enumerate(argv) if word.startswith("-")), len(argv))
    if not first:
        raise UsageError("give config files first, like configs/*.txt; options go behind them")
    paths = [path for word in argv[:first] for path in matching(word)]
    configs = [load_config(["--config", path, *argv[first:]], "evaluate_all.py") for path in paths]
    # Heavy imports follow the command line: `--help` and its errors do not wait for them.
    from nsff.distributed import open_session
    from nsff.evaluation.results_table import evaluate_all
    from nsff.launcher import launch_processes
    from nsff.report.evaluation_page import write_page

    if launch_processes(configs[0], __file__, argv):
        return
    with open_session(configs[0]) as (device, group):
        evaluate_all(configs, device, group, write_page)


def matching(word: str) -> list[str]:
    """The files of a pattern that matched nothing where the shell stood, under the repository root; else the word."""
    return sorted(map(str, REPOSITORY.glob(word))) if "*" in word else [word]


if __name__ == "__main__":
    run_script(main)
