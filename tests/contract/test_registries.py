"""Every table of names is one `Registry`, whose rows point at something and say of it what it says of itself."""

import dataclasses
import importlib
import inspect
import pkgutil
import re

import click
import pytest

import trustbound
from trustbound.errors import InputError
from trustbound.registry import Registry

MODULES = [
    info.name for info in pkgutil.walk_packages(trustbound.__path__, "trustbound.") if info.name.endswith(".registry")
]
ROOMS = [name for name in MODULES if name != "trustbound.registry"]
TABLES = {
    name.split(".", 1)[1].removesuffix(".registry"): value
    for name in ROOMS
    for value in vars(importlib.import_module(name)).values()
    if isinstance(value, Registry)
}
ROWS = [pytest.param(table, row, id=f"{room}-{row.name}") for room, table in TABLES.items() for row in table]
every_table = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())


def test_every_room_has_one_table_and_every_table_is_a_registry():
    assert len(ROOMS) == len(TABLES) >= 9
    for name in ROOMS:
        module = importlib.import_module(name)
        tables = [
            held for held in vars(module).values() if isinstance(held, tuple) and dataclasses.is_dataclass(held[0])
        ]
        assert len(tables) == 1, f"{name} holds {len(tables)} tables"
        functions = [
            held.__name__
            for held in vars(module).values()
            if inspect.isfunction(held) and held.__module__ == name and not held.__name__.startswith("_")
        ]
        assert functions == [], f"{name} is data: what is done with it belongs to Registry"


@every_table
def test_names_are_unique_and_found(table):
    assert len(set(table.names)) == len(table) > 0
    assert re.match("an? ", table.kind)
    for row in table:
        assert table.find(row.name) is row


@pytest.mark.parametrize(("table", "row"), ROWS)
def test_a_row_is_frozen_data_in_one_line_that_says_what_its_target_is(table, row):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", row.name)
    assert row.line.strip()
    assert "\n" not in row.line
    assert type(row).__dataclass_params__.frozen
    found = table.load(row.name)
    assert callable(found)
    assert (found.help if isinstance(found, click.Command) else found.__doc__).strip()
    module, _, attribute = row.target.partition(":")
    home = found.callback if isinstance(found, click.Command) else found
    assert home.__module__ == module, f"{row.name} should point at {home.__module__}, where it is"
    assert home.__name__ == attribute


def plain(value):
    """As a row writes it: an access by its word, a shape as a tuple."""
    return value.name.lower() if hasattr(value, "name") else tuple(value) if isinstance(value, list) else value


def stated(found):
    """What a class says of itself, or a function takes unless told otherwise."""
    if not isinstance(found, type):
        parameters = {} if isinstance(found, click.Command) else inspect.signature(found).parameters
        return {name: plain(one.default) for name, one in parameters.items() if one.default is not one.empty}
    names = {name for kind in found.__mro__ for name in vars(kind)}
    values = {name: inspect.getattr_static(found, name) for name in names if not name.startswith("_")}
    return {
        name: plain(value)
        for name, value in values.items()
        if not callable(value) and not isinstance(value, property | classmethod | staticmethod)
    }


def agreed(table):
    """(row, field) wherever a row and its target speak of the same thing; a difference fails."""
    found = []
    for row in table:
        said = stated(table.load(row.name))
        for field in dataclasses.fields(row):
            if field.name in said:
                assert plain(getattr(row, field.name)) == said[field.name], f"{row.name}: {field.name}"
                found.append((row.name, field.name))
    return found


@every_table
def test_rows_say_what_their_classes_say(table):
    agreed(table)


def test_there_is_something_to_compare():
    """Names of checks, what attacks need and seek, whether objectives train against a threat, sizes of networks."""
    pairs = {room: {field for _, field in agreed(table)} for room, table in TABLES.items()}
    assert pairs["attacks"] >= {"needs", "seeks"}
    assert pairs["audits.checks"] >= {"name"}
    assert pairs["hardening"] >= {"threat"}
    assert pairs["model"] >= {"input_shape", "classes"}


def test_a_row_that_says_something_else_is_seen():
    table = TABLES["attacks"]
    wrong = [dataclasses.replace(row, needs="scores" if row.needs == "gradients" else "gradients") for row in table]
    with pytest.raises(AssertionError, match="needs"):
        agreed(Registry(table.kind, *wrong))


@every_table
def test_an_unknown_name_is_refused_with_those_there_are_and_the_nearest(table):
    first = table.names[0]
    with pytest.raises(InputError, match=f"^{table.kind} must be one of {first}.*; got '{first}x'. Did you mean"):
        table.find(f"{first}x")
    with pytest.raises(InputError, match=r"got '\?'. Choose one of these names.$"):
        table.load("?")


def test_params_are_refused_before_anything_is_built():
    attacks = TABLES["attacks"]
    with pytest.raises(InputError, match=r"pgd takes steps, .*; got alpha, eps$"):
        attacks.build("pgd", eps=1, alpha=2)
    with pytest.raises(InputError, match=r"ddn takes values of the kinds .*'<'"):
        attacks.build("ddn", levels="many")


def test_an_object_is_known_by_its_class_alone():
    attacks = TABLES["attacks"]
    assert attacks.row_of(attacks.build("pgd", steps=3)).name == "pgd"

    class PGD(attacks.load("pgd")):
        pass

    assert attacks.row_of(PGD()) is None
    assert attacks.row_of("pgd") is None
