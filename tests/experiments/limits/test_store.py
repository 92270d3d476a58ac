"""The file of finished runs: what it keeps, repairs and refuses."""

import dataclasses
import os
import sqlite3

import pytest

from keras_e2e.experiments.command import CommandError
from keras_e2e.experiments.limits import store as store_module
from keras_e2e.experiments.limits.setting import Setting
from keras_e2e.experiments.limits.store import Store

SETTING = Setting("parity", 4, "end_to_end")
RESULT = {"accuracy": 0.1 + 0.2, "curve": [[100, 0.5]], "reached": None}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.sqlite"


def settings(count):
    return [dataclasses.replace(SETTING, seed=seed) for seed in range(count)]


def filled(path, count):
    """A store with some runs, large enough to have many pages."""
    with Store(path) as store:
        for setting in settings(count):
            store.add(setting, {"seed": setting.seed, "curve": [0.5] * 500})


def test_a_result_comes_back_as_it_was(path):
    with Store(path) as store:
        assert store.get(SETTING) is None and SETTING not in store and len(store) == 0
        assert store.add(SETTING, RESULT)
    with Store(path) as store:
        assert store.get(SETTING) == RESULT and SETTING in store and len(store) == 1
        assert not store.notices


def test_rows_are_those_that_are_there_in_the_order_asked_for(path):
    one, two, three = settings(3)
    with Store(path) as store:
        store.add(one, {"seed": 0})
        store.add(three, {"seed": 2})
        assert store.rows([three, two, one]) == [(three, {"seed": 2}), (one, {"seed": 0})]


def test_the_first_result_of_a_setting_stays(path):
    with Store(path) as store:
        assert store.add(SETTING, RESULT)
        assert not store.add(SETTING, {"accuracy": 1.0})
        assert store.get(SETTING) == RESULT and len(store) == 1


@pytest.mark.parametrize("result", [{"a": float("nan")}, {"a": object()}])
def test_what_is_no_json_is_not_kept(path, result):
    with Store(path) as store:
        with pytest.raises((TypeError, ValueError)):
            store.add(SETTING, result)
        assert len(store) == 0


def test_a_file_belongs_to_one_runner_at_a_time(path, monkeypatch):
    monkeypatch.setattr(store_module, "PATIENCE", 0.1)
    with Store(path), pytest.raises(CommandError, match="Another process is at work on"):
        Store(path)
    Store(path).close()


@pytest.mark.parametrize("version", [0, 2])
def test_another_version_or_program_is_refused_and_left_alone(path, version):
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE runs (key TEXT)")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(CommandError, match=f"has the version {version}; .* version 1"):
        Store(path)
    assert path.read_bytes() == before and os.listdir(path.parent) == [path.name]


def test_the_version_belongs_to_the_fields_of_a_setting():
    # With other fields old results have other keys: raise VERSION, then change this.
    fields = "task k regime data labels seed steps batch_size learning_rate examples"
    assert [field.name for field in dataclasses.fields(Setting)] == fields.split()
    assert store_module.VERSION == 1


def damage_page(path):
    """Overwrites a page amid the table."""
    with open(path, "r+b") as file:
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(b"\xff" * 4096)


def damage_text(path):
    """Turns a letter of one result, which SQLite itself does not notice."""
    data = path.read_bytes()
    place = data.index(b'{"seed": 7,')
    path.write_bytes(data[:place] + b"\xff" + data[place + 1 :])


def damage_setting(path):
    """Turns a seed, so that a result stands at another setting than its own."""
    data = path.read_bytes()
    assert data.count(b'"seed": 7, "steps"') == 1
    path.write_bytes(data.replace(b'"seed": 7, "steps"', b'"seed": 6, "steps"'))


@pytest.mark.parametrize("damage", [damage_page, damage_text, damage_setting])
def test_a_damaged_file_is_kept_and_what_can_be_read_goes_on_to_count(path, damage):
    filled(path, 40)
    damage(path)
    before = path.read_bytes()
    with Store(path) as store:
        (notice,) = store.notices
        rows = store.rows(settings(40))
        assert 20 < len(rows) < 40 and len(store) == len(rows)
        assert all(result["seed"] == setting.seed for setting, result in rows)
        aside = path.with_name("results.sqlite.damaged-1")
        assert f"is kept as {str(aside)!r}; {len(rows)} of its runs" in notice
        assert aside.read_bytes() == before
    assert sorted(os.listdir(path.parent)) == [path.name, aside.name]
    with Store(path) as store:
        assert not store.notices and len(store) == len(rows)


def no_database(path):
    path.write_bytes(b"no database" * 1000)


def cut_off(path):
    filled(path, 40)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 8192)


@pytest.mark.parametrize("damage", [no_database, cut_off])
def test_a_file_of_which_nothing_can_be_read_is_kept_too(path, damage):
    for number in (1, 2):
        damage(path)
        before = path.read_bytes()
        with Store(path) as store:
            assert len(store) == 0 and "0 of its runs" in store.notices[0]
        aside = path.with_name(f"results.sqlite.damaged-{number}")
        assert aside.read_bytes() == before
        path.unlink()


def test_a_kill_amid_a_transaction_leaves_the_file_as_it_was_before(path):
    filled(path, 3)
    before = path.read_bytes()
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("BEGIN")
    connection.execute("UPDATE runs SET result = 'half'")
    connection.execute("PRAGMA cache_spill = 1")
    for number in range(100):
        connection.execute(store_module.INSERT, (str(number), "x" * 5000, "y", "z"))
    journal = path.with_name("results.sqlite-journal").read_bytes()
    half = path.read_bytes()
    connection.close()
    # What lies on the disk when the process dies here.
    assert half != before
    path.write_bytes(half)
    path.with_name("results.sqlite-journal").write_bytes(journal)
    with Store(path) as store:
        assert not store.notices and len(store) == 3


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(
        CommandError, match=r"cannot be read or written.*another --output_dir"
    ):
        Store(tmp_path)
    with pytest.raises(CommandError, match="unable to open"):
        Store(tmp_path / "no" / "results.sqlite")
