"""The metrics of a task against values worked out by hand, and against plain loops over pairs."""

import json
import math

import pytest

from edgedistill.measure.task_grades import grade_labels, grade_objects, grade_texts, pairs_of


def test_labels_worked_out_by_hand():
    """a: TP 2, FN 1 (said b); b: TP 1, FP 1, FN 1 (said maybe); c: FN 1 (said nothing)."""
    expected = ["a", "a", "a", "b", "b", "c"]
    got = ["A", " a ", "b", "b", "maybe", ""]
    grades = grade_labels(expected, got, ["a", "b", "c", "d"])
    assert grades.right == [True, True, False, True, False, False]
    f1 = {"a": 2 * 2 / (2 * 2 + 0 + 1), "b": 2 * 1 / (2 * 1 + 1 + 1), "c": 0.0}
    assert grades.figures["macro_f1"] == pytest.approx(sum(f1.values()) / 3)
    assert grades.figures["no_label_share"] == pytest.approx(2 / 6)


def test_a_label_that_no_item_has_takes_no_part_in_the_mean():
    """As of scikit-learn's f1_score with the labels of the truth: 0.8 of a and 0 of b, which is said once for a."""
    grades = grade_labels(["a"] * 3, ["a", "a", "d"], ["a", "d"])
    assert grades.figures == {"macro_f1": pytest.approx(0.8), "no_label_share": 0.0}


def test_blanks_and_case_are_no_part_of_a_label():
    assert grade_labels(["Card lost", "STRASSE"], ["card   LOST\n", "straße"], ["Card lost", "STRASSE"]).right == [
        True,
        True,
    ]


def test_perfect_labels_and_objects_score_one():
    assert set(grade_labels(list("abc"), list("abc"), list("abc")).figures.values()) == {1.0, 0.0}
    objects = ['{"a": 1, "b": {"c": [1, 2]}}', '{"a": "x"}']
    assert set(grade_objects(objects, objects).figures.values()) == {1.0}


def test_objects_worked_out_by_hand():
    """Expected pairs: 3, 2, 1. Got: all 3 in another order; one right, one wrong, one too many; no JSON."""
    expected = ['{"intent": "play", "slots": {"artist": "x", "year": 3}}', '{"a": 1, "b": 2}', '{"a": 1}']
    got = ['{"slots":{"year":3,"artist":"x"},"intent":"play"}', ' {"a": 1, "b": 3, "c": 4}\n', '{"a": 1']
    grades = grade_objects(expected, got)
    assert grades.right == [True, False, False]
    both, only_got, only_expected = 3 + 1, 2, 1 + 1
    assert grades.figures["field_f1"] == pytest.approx(2 * both / (2 * both + only_got + only_expected))
    assert grades.figures["field_share"] == pytest.approx(both / 6)
    assert grades.figures["valid_json_share"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    "text", ["[1]", "3", '"a"', "", "{}x", '{"a": NaN}', '{"a": Infinity}', "{'a': 1}", "{" * 5000]
)
def test_what_is_no_object_in_json_is_not_valid(text: str):
    grades = grade_objects(['{"a": 1}'], [text])
    assert grades.figures == {"field_f1": 0.0, "field_share": 0.0, "valid_json_share": 0.0}


def test_a_value_counts_by_what_it_is():
    """Python holds True == 1 == 1.0; JSON's readers in other languages don't."""
    assert grade_objects(['{"a": 1}'] * 3, ['{"a": true}', '{"a": 1.0}', '{"a": "1"}']).right == [False] * 3


def test_pairs_of_an_object_are_those_of_a_recursive_walk():
    value = {"a": {"b": [1, {"c": None}, 1], "d": {}}, "e": [], "f.g": "x", "f": {"g": "x"}}

    def walk(path: tuple[str, ...], inner: object) -> list[tuple[tuple[str, ...], str]]:
        if isinstance(inner, dict) and inner:
            return [pair for key, each in inner.items() for pair in walk((*path, key), each)]
        if isinstance(inner, list) and inner:
            return [pair for each in inner for pair in walk((*path, "[]"), each)]
        return [(path, json.dumps(inner))]

    expected = walk((), value)
    pairs = pairs_of(value)
    assert sorted(pairs.elements()) == sorted(expected)
    assert pairs[("a", "b", "[]"), "1"] == 2
    assert pairs.total() == 7
    assert pairs_of(None).total() == 0


def test_deep_objects_are_walked_without_recursion():
    deep: dict[str, object] = {"a": 1}
    for _ in range(3000):
        deep = {"a": deep}
    assert pairs_of(deep).total() == 1


def test_texts_are_right_where_they_differ_by_blanks_alone():
    assert grade_texts(["a b", "A", "a"], [" a\n b ", "a", "a."]).right == [True, False, False]
    assert math.isclose(sum(grade_texts(["a"], ["a"]).right), 1)
