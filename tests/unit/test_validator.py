"""What the public validator says of our crates; test_provenance.py has it asked, long before."""

from pathlib import Path

import pytest

from tests.support.provenance import BASE, COMPLETE, RUN, Answers, absent, metadata, sha256


@pytest.mark.parametrize("name", ["failed", "bare"])
def test_the_public_validator_finds_nothing(answers: Answers, name: str) -> None:
    assert answers.of(name, BASE) == {}
    assert answers.of(name, RUN) == {}


def test_the_public_validator_does_look(answers: Answers) -> None:
    for missed in ("`license`", "localPath"):
        assert [sentence for sentence in answers.of("spoilt", BASE) if missed in sentence]
    assert [sentence for sentence in answers.of("spoilt", RUN) if "instrument" in sentence]


def test_what_is_recommended_and_not_known(answers: Answers, crates: Path) -> None:
    found = metadata(crates / "complete/crate")
    elsewhere = [absent(found, path)["@id"] for path in ("input/flights/a.csv", "code/analysis.py")]
    of_any_crate = {
        "The Root Data Entity SHOULD have a link to a Contextual Entity representing the `author`"
        " of the RO-Crate": {""},
        "The `publisher` property of a `Root Data Entity` SHOULD be an `Organization`": {""},
    } | {
        f"Web-based Data Entity {at} uses scheme 'ni' which is not natively supported by the"
        " validator; availability could not be verified": {"None"}
        for at in elsewhere
    }
    assert answers.of("complete", BASE) == of_any_crate
    assert answers.of("complete", RUN) == of_any_crate | {
        "The ContainerImage SHOULD have a registry": {f"#image-{sha256(b'image')}"},
        "The Application SHOULD have a url": {elsewhere[1]},
        "The SoftwareApplication id SHOULD be an absolute URI": {
            "http://schema.org/SoftwareApplication",
            "http://schema.org/SoftwareSourceCode",
        },
        "The Action SHOULD have an agent that is a Person or Organization": {
            f"#run-{COMPLETE.process.id}"
        },
    }
