import json
import os
import subprocess
import sys

from train.telemetry.environment import describe_code, describe_environment, describe_variables, looks_secret


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def a_repository(folder):
    git(folder, "init", "-q")
    (folder / "code.py").write_text("one = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    return folder / "code.py"


def test_the_environment_names_versions_and_machine_and_is_json():
    environment = describe_environment()
    assert json.loads(json.dumps(environment)) == environment
    assert environment["python"] == sys.version.split()[0]
    assert {"torch", "wandb", "hydra-core"} <= environment["packages"].keys()
    assert environment["cores"] >= 1 and environment["memory_bytes"] > 1e8


def test_describing_the_environment_imports_none_of_the_heavy_packages():
    code = "import sys; from train.telemetry.environment import describe_environment as d; d()"
    check = "print([m for m in ('torch', 'deepspeed', 'wandb') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", f"{code}; {check}"], capture_output=True, text=True, env=os.environ)
    assert done.stdout.strip() == "[]", done.stderr


def test_uncommitted_changes_are_recorded_and_keys_in_them_removed(tmp_path):
    file = a_repository(tmp_path)
    assert describe_code(file)["dirty"] is False
    file.write_text("two = 2\nAPI_KEY = 'abcdefghijklmnop0123456789'\n")
    (tmp_path / "new.py").write_text("")
    code = describe_code(file)
    assert len(code["revision"]) == 40 and code["dirty"] is True and code["untracked"] == ["new.py"]
    assert "+two = 2" in code["diff"] and "abcdefghijklmnop" not in code["diff"]


def test_a_huge_diff_is_cut(tmp_path):
    file = a_repository(tmp_path)
    file.write_text("x = 1\n" * 200_000)
    assert len(describe_code(file)["diff"]) < 210_000


def test_a_checkout_that_does_not_track_the_file_is_somebody_elses(tmp_path):
    a_repository(tmp_path)
    (tmp_path / "site-packages").mkdir()
    installed = tmp_path / "site-packages" / "environment.py"
    installed.write_text("")
    assert describe_code(installed) is None


def test_no_secret_among_the_variables():
    kept = {"CUDA_VISIBLE_DEVICES": "0", "NCCL_DEBUG": "INFO", "SLURM_JOB_ID": "7"}
    dropped = {"WANDB_API_KEY": "a", "HF_TOKEN": "b", "TORCH_AUTH_TOKEN": "c", "DS_SECRET": "d", "HOME": "/root"}
    assert describe_variables(kept | dropped) == kept


def test_names_of_secrets_are_told_from_words_that_contain_them():
    assert all(map(looks_secret, ("api_key", "HF_TOKEN", "db.password", "apikey", "AWS_SECRET_ACCESS_KEY")))
    assert not any(map(looks_secret, ("tokens_per_second", "tokenizer", "keyboard", "key_value_heads")))
