"""The table that says where the essay is right: it is what the records say, and nothing is named loosely."""

import re

import pytest
import yaml

from eval import essay

ROWS = yaml.safe_load((essay.FOLDER / "essay.yaml").read_text())
BETTER = {"record": "2026-11-27_pretrained", "text": "What does GRPO pay in FLOPs to half", "statistic": "FLOPs to half"}


def test_the_table_of_the_findings_is_what_the_records_say():
    text = (essay.FOLDER / "README.md").read_text()
    (table,) = re.findall(r"<!-- made by `python -m eval\.essay` -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert table == essay.essay_table(ROWS)


@pytest.mark.parametrize("change", [{"text": "What does"}, {"text": "no such claim"}, {"num": 2}])
def test_words_that_name_more_or_fewer_claims_than_they_should_are_an_error(change):
    with pytest.raises(ValueError, match=r"2026-11-27_pretrained: .* claims hold"):
        essay.claims_named(BETTER | change)


def test_a_verdict_in_other_words_needs_a_reading():
    (claim,) = essay.claims_named(BETTER)
    with pytest.raises(ValueError, match="'more' is supported or contradicted"):
        essay.about_the_essay(claim, BETTER)
    assert essay.about_the_essay(claim, BETTER | {"reads": {"more": "supported"}}) == "supported"


def test_an_open_end_of_an_interval_is_shown_as_such():
    assert essay.measured({"mean": 1.848, "interval": [1.515, None]}) == "1.85 [1.51, ∞]"  # 1.515 lies below its own digits
    assert essay.measured({"mean": None, "interval": None}) == "–"
