"""What a user may put into a batch script."""

from __future__ import annotations

import pytest
from generated_corpus import configuration

from data_pipeline.foundation.errors import UserError
from data_pipeline.preparation.slurm.settings import SlurmConfig


def test_settings_become_options_of_sbatch():
    config = SlurmConfig(
        cpus_per_task=8,
        memory="16G",
        time="1-00:00:00",
        partition="cpu,long",
        account="me & you",
        qos="high",
        sbatch=["--constraint=[rack1|rack2]", "--exclusive", "--mail-user=me@example.org"],
        modules=["gcc/13.2", "python/3.11.4-GCCcore"],
    )
    config.check()
    assert config.options() == {
        "partition": "cpu,long",
        "account": "me & you",
        "qos": "high",
        "time": "1-00:00:00",
        "mem": "16G",
        "cpus-per-task": "8",
        "constraint": "[rack1|rack2]",
        "exclusive": None,
        "mail-user": "me@example.org",
    }


def test_what_is_left_to_the_cluster_is_no_option():
    SlurmConfig().check()
    assert SlurmConfig().options() == {"cpus-per-task": "1"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": 0}, r"engine\.tasks=0 must be at least 1"),
        ({"at_once": 0}, r"engine\.at_once=0 must be at least 1"),
        ({"cpus_per_task": 0}, r"engine\.cpus_per_task=0 must be at least 1"),
        ({"retries": -1}, r"engine\.retries=-1 must be at least 0"),
        ({"partition": "a\n#SBATCH --uid=0"}, r"engine\.partition=.*printable"),
        ({"account": "a\ntouch b"}, r"engine\.account=.*printable"),
        ({"qos": "\x1b[2J"}, r"engine\.qos=.*printable"),
        ({"time": ""}, r"engine\.time=''"),
        ({"memory": "1G\r"}, r"engine\.memory=.*printable"),
        ({"modules": ["gcc; touch a"]}, r"engine\.modules: 'gcc; touch a' isn't the name of a module"),
        ({"modules": ["$(touch a)"]}, "isn't the name of a module"),
        ({"modules": ["gcc\ntouch a"]}, "isn't the name of a module"),
        ({"modules": ["../../evil"]}, "isn't the name of a module"),
        ({"modules": ["/tmp/evil"]}, "isn't the name of a module"),
        ({"modules": ["-f"]}, "isn't the name of a module"),
        ({"sbatch": ["constraint=avx2"]}, "isn't an option such as --constraint=avx2"),
        ({"sbatch": ["-C avx2"]}, "isn't an option"),
        ({"sbatch": ["--constraint=a\ntouch b"]}, "isn't an option"),
        ({"sbatch": ["--constraint avx2 --uid=0"]}, "isn't an option"),
        ({"sbatch": ["--partition=a"]}, r"--partition is ours to set, by engine\.partition"),
        ({"sbatch": ["--mem=1G"]}, r"--mem is ours to set, by engine\.memory"),
        ({"sbatch": ["--array=0-9"]}, r"--array is ours to set, by engine\.tasks"),
        ({"sbatch": ["--arr=0-9"]}, r"--array is ours to set"),
        ({"sbatch": ["--output=/etc/passwd"]}, "--output is ours to set"),
        ({"sbatch": ["--export=LD_PRELOAD=evil.so"]}, "--export is ours to set"),
        ({"sbatch": ["--expor=LD_PRELOAD=evil.so"]}, "--export is ours to set"),
        ({"sbatch": ["--wrap=touch a"]}, "--wrap is ours to set"),
        ({"sbatch": ["--container=/tmp/evil"]}, "--container is ours to set"),
    ],
)
def test_what_could_be_more_than_a_value_is_refused(settings, message):
    with pytest.raises(UserError, match=message) as caught:
        SlurmConfig(**settings).check()
    assert str(caught.value).isprintable()


def test_the_command_line_sets_them():
    config = configuration("output=x", "engine=slurm", "engine.tasks=40", "engine.sbatch=['--constraint=a=b']").engine
    assert isinstance(config, SlurmConfig)
    assert config.tasks == 40 and config.options()["constraint"] == "a=b"
    with pytest.raises(UserError, match=r"unknown key `engine\.task`"):
        configuration("output=x", "engine=slurm", "engine.task=40")
