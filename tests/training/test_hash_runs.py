"""Training of hash grids: exact resume, checkpoints of other fields, minutes over several runs."""

import dataclasses

import pytest
import torch
from nsff.errors import InputError
from nsff.training import checkpoint
from nsff.training.checkpoint import list_checkpoints
from nsff.training.loop import train
from nsff.training.trainer import Trainer
from toy_fields import SMALL_GRIDS

CPU = torch.device("cpu")


@pytest.fixture
def config(paper_config, tmp_path):
    return dataclasses.replace(
        paper_config, basedir=str(tmp_path), variant="paper", field="hash", schedule="scaled", lrate=5e-4, N_rand=64,
        num_extra_sample=16, hash_coarse_samples=8, hash_samples=8,
        warm_steps="4", N_iters=6, i_weights=3, i_print=2, i_img=0,
        **SMALL_GRIDS,
    )  # fmt: skip


def test_resumed_run_equals_uninterrupted_run(config, paper_scene):
    """Interrupted in the warm start, which ends before step 4: at 60 % of the run."""
    uninterrupted, interrupted = Trainer(config, paper_scene, CPU), Trainer(config, paper_scene, CPU)
    for _ in range(6):
        uninterrupted.train_step()
    for _ in range(3):
        interrupted.train_step()
    config.experiment_dir.mkdir()
    interrupted.save()
    resumed = Trainer(config, paper_scene, CPU)
    resumed.resume()
    for _ in range(3):
        resumed.train_step()
    for actual, expected in zip(resumed.fields.parameters(), uninterrupted.fields.parameters(), strict=True):
        assert torch.equal(actual, expected)


def test_resume_rejects_checkpoint_of_another_architecture(config, paper_scene):
    train(Trainer(config, paper_scene, CPU))
    for other, message in (
        ({"field": "mlp", "schedule": "published"}, "field hash.*asks for field mlp"),
        ({"hash_finest": 32}, "hash_finest 64.*asks for.*hash_finest 32"),
    ):
        with pytest.raises(InputError, match=message):
            Trainer(dataclasses.replace(config, **other), paper_scene, CPU).resume()


def test_checkpoint_of_an_older_revision_is_refused_in_one_line(config, paper_scene, monkeypatch):
    """Its features would be taken for those of other times."""
    monkeypatch.setattr(checkpoint, "HASH_REVISION", 3)
    train(Trainer(config, paper_scene, CPU))
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"000006\.tar has hash fields of revision 3, which this version") as caught:
        Trainer(config, paper_scene, CPU).resume()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value).replace(config.basedir, "")) < 160


def test_run_of_many_saves_keeps_few_files(config, paper_scene):
    """By steps and by the clock, as in a long run of small steps."""
    often = dataclasses.replace(config, N_iters=40, i_weights=2, save_minutes=1e-9, keep_checkpoints=3)
    trainer, n_files = Trainer(often, paper_scene, CPU), []
    save = trainer.save
    trainer.save = lambda: (save(), n_files.append(len(list(config.experiment_dir.glob("*.tar")))))[0]
    train(trainer)
    assert len(n_files) >= 40
    assert max(n_files) == 3
    assert [int(path.stem) for path in list_checkpoints(config.experiment_dir)] == [40, 39, 38]


def test_max_minutes_counts_over_all_runs_of_an_experiment(config, paper_scene, caplog):
    limited = dataclasses.replace(config, N_iters=10**6, max_minutes=0.02)
    first = Trainer(limited, paper_scene, CPU)
    train(first)
    assert 1.2 <= first.seconds < 10.0
    again = Trainer(limited, paper_scene, CPU)
    with caplog.at_level("INFO", logger="nsff"):
        train(again)
    assert again.step == first.step
    assert "raise --max_minutes" in caplog.text
    newest = list_checkpoints(config.experiment_dir)[0]
    other = Trainer(dataclasses.replace(limited, expname="other", ft_path=str(newest)), paper_scene, CPU)
    other.resume()
    assert (other.step, other.seconds) == (first.step, 0.0)  # another experiment has its own minutes
