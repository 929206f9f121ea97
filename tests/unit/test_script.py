"""Templates: what they may say, what may stand where, and that nothing slips out of its place."""

import dataclasses
import hashlib
import re
import shutil
import subprocess
import typing
from pathlib import Path

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import nodes

from slurmbridge.container.apptainer import Bounds, SealedContainer, seal
from slurmbridge.errors import ConfigurationError
from slurmbridge.script import (
    DEFAULT_TEMPLATES,
    DOCTOR,
    REQUIREMENTS,
    Directive,
    DoctorContext,
    RequirementsContext,
    ScriptContext,
    Templates,
    digest,
    quote,
    words,
)
from tests.support.builders import shipped_templates

ALL_TEMPLATES = sorted(DEFAULT_TEMPLATES.rglob("*.j2"))
TYPES = {
    name: kind
    for context in (DoctorContext, RequirementsContext, ScriptContext)
    for name, kind in typing.get_type_hints(context).items()
}
DIRECTIVES = {name for name, kind in TYPES.items() if kind in (Directive, Directive | None)}
OTHERS = {
    DOCTOR,
    REQUIREMENTS,
    "requirements_claim.j2",
    "requirements_pod.j2",
    "requirements_run.j2",
}
OF_PROCESSES = [path for path in ALL_TEMPLATES if path.name not in OTHERS]
CONTEXT = ScriptContext(
    version=Directive("0.1.0"),
    process_id=Directive("0" * 26),
    template_digest=Directive("1" * 64),
    job_name=Directive("sb-" + "0" * 26),
    account=Directive("research"),
    partition=Directive("main"),
    exclude=Directive("n1,n2"),
    nodes=Directive("1"),
    tasks=Directive("1"),
    tasks_per_node=Directive("1"),
    cpus_per_task=Directive("1"),
    memory=Directive("512M"),
    gres=Directive("gpu:2"),
    time_limit=Directive("60"),
    warn_signal=Directive("USR1"),
    warn_seconds=Directive("30"),
    working_directory=Directive("/c/0"),
    job_log=Directive("/c/0/job.log"),
    context="/c/0",
    image_path="/i/python.sif",
    image_sha256=Directive("2" * 64),
    image_offset=Directive("32768"),
    tmp_bytes=Directive("1048576"),
    shm_bytes=Directive("1048576"),
    helper_folder="/i/helpers",
    sbseal_sha256=Directive("3" * 64),
    sbprobe_sha256=Directive("4" * 64),
    log_limit=Directive("65536"),
    output_in_memory=True,
    output_bytes=Directive("131072"),
    output_inodes=Directive("11"),
    code_sha256=Directive("6" * 64),
    seal=seal(
        SealedContainer((), "/code", Bounds(64, 64, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 11), ())
    ),
    traced=True,
    trace_filtered=True,
    trace_calls="%process",
    trace_string_limit=Directive("64"),
    trace_limit=Directive("1048576"),
    trace_stops=True,
    requirements_path="/r/k/made/requirements.sqsh",
    requirements_sha256=Directive("5" * 64),
    pods=True,
    networked=True,
    mpi=True,
    bind=True,
    workers=True,
    spark=True,
    dask=True,
    ray=True,
    program_mib=Directive("512"),
    workers_mib=Directive("1024"),
    cpus_per_node=Directive("1"),
)


@pytest.fixture(scope="module")
def templates() -> Templates:
    return Templates(DEFAULT_TEMPLATES)


def parsed(path: Path) -> nodes.Template:
    return jinja2.Environment(autoescape=False).parse(path.read_text())


def names_in(path: Path) -> set[str]:
    return {node.name for node in parsed(path).find_all(nodes.Name) if node.ctx == "load"}


# --- Directive ---


@pytest.mark.parametrize(
    "text", ["a", "main", "4096M", "/shared/c-1/job.log", "a.b_c:d/e@f%g,h=i+j"]
)
def test_plain_text_may_stand_on_a_directive_line(text: str) -> None:
    assert Directive(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "", "a\nrm -rf /", "a\n", "\n", "a\r", "#", "a b", "a\tb", "'", '"', "$HOME", "`id`", "a;b",
        "a&b", "a|b", "a>b", "(a)", "ä", "\N{FULLWIDTH LATIN SMALL LETTER A}", "\N{DIGIT ONE}\0",
        "\N{ARABIC-INDIC DIGIT ONE}", "a\\b", "~", "*", "?", "[a]", "{a}", "!", "\x85", "\u2028",
    ],
)  # fmt: skip
def test_text_that_means_something_to_a_shell_may_not(text: str) -> None:
    with pytest.raises(ValueError, match="cannot stand on an #SBATCH line"):
        Directive(text)


@settings(deadline=None)
@given(st.text())
def test_whatever_is_taken_is_one_word_of_ascii(text: str) -> None:
    try:
        taken = Directive(text)
    except ValueError:
        return
    assert taken.isascii()
    assert taken.split() == [text]
    assert not set(taken) & set("#'\"$`\\;&|<>()*?[]{}!~\n")


# --- what the templates say ---


def test_there_are_templates() -> None:
    assert DEFAULT_TEMPLATES / "process.sbatch.j2" in ALL_TEMPLATES
    assert len(ALL_TEMPLATES) >= 5


@pytest.mark.parametrize("path", ALL_TEMPLATES, ids=lambda path: path.name)
def test_a_variable_in_a_directive_or_comment_is_declared_as_such(path: Path) -> None:
    comments = [line for line in path.read_text().splitlines() if re.match(r"\s*#", line)]
    inside = set(re.findall(r"{{ (\w+) }}", "\n".join(comments)))
    assert inside <= DIRECTIVES


def test_directives_do_stand_in_directives_and_comments() -> None:
    text = "\n".join(path.read_text() for path in OF_PROCESSES)
    assert len(re.findall(r"^#SBATCH .*{{ \w+ }}", text, re.MULTILINE)) == 14
    assert len(re.findall(r"^# .*{{ \w+ }}", text, re.MULTILINE)) == 2


def test_every_variable_is_used_and_every_used_one_is_declared() -> None:
    used = set().union(*(names_in(path) for path in ALL_TEMPLATES))
    assert used - {"argument"} == set(TYPES)


ALLOWED_NODES = {"Template", "Output", "TemplateData", "Name", "If", "For", "Include", "Const"}


@pytest.mark.parametrize("path", ALL_TEMPLATES, ids=lambda path: path.name)
def test_a_template_states_and_computes_nothing(path: Path) -> None:
    found = {type(node).__name__ for node in parsed(path).find_all(nodes.Node)}
    assert found <= ALLOWED_NODES


@pytest.mark.parametrize("path", ALL_TEMPLATES, ids=lambda path: path.name)
def test_only_the_entry_includes_and_only_by_a_plain_name(path: Path) -> None:
    includes = list(parsed(path).find_all(nodes.Include))
    assert bool(includes) == (path.name in {"process.sbatch.j2", REQUIREMENTS})
    for include in includes:
        assert isinstance(include.template, nodes.Const)
        assert not include.ignore_missing
        assert (DEFAULT_TEMPLATES / str(include.template.value)).is_file()


@pytest.mark.parametrize("path", ALL_TEMPLATES, ids=lambda path: path.name)
def test_a_constant_is_the_name_of_an_include_and_nothing_else(path: Path) -> None:
    tree = parsed(path)
    names = {id(include.template) for include in tree.find_all(nodes.Include)}
    assert {id(node) for node in tree.find_all(nodes.Const)} == names


@pytest.mark.parametrize("path", ALL_TEMPLATES, ids=lambda path: path.name)
def test_a_variable_is_never_within_single_quotes(path: Path) -> None:
    for line in path.read_text().splitlines():
        before_variable = re.split(r"{{", line)[:-1]
        assert not [part for part in before_variable if part.count("'") % 2]


@pytest.mark.parametrize("path", ALL_TEMPLATES, ids=lambda path: path.name)
def test_within_double_quotes_stand_directives_alone(path: Path) -> None:
    for name in re.findall(r'"[^"\n]*{{ (\w+) }}[^"\n]*"', path.read_text()):
        assert name in DIRECTIVES


def test_an_unknown_variable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "process.sbatch.j2").write_text("{{ walltime }}")
    with pytest.raises(ConfigurationError, match="walltime"):
        Templates(tmp_path).render(CONTEXT)


def test_an_unknown_variable_in_a_condition_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "process.sbatch.j2").write_text("{% if walltime %}x{% endif %}")
    with pytest.raises(ConfigurationError, match="walltime"):
        Templates(tmp_path).render(CONTEXT)


@pytest.mark.parametrize("text", ["{{ traced }}", "{{ seal }}", "{{ account }}"])
def test_what_is_no_text_cannot_be_written(tmp_path: Path, text: str) -> None:
    (tmp_path / "process.sbatch.j2").write_text(text)
    with pytest.raises(ConfigurationError, match="cannot be written"):
        Templates(tmp_path).render(dataclasses.replace(CONTEXT, account=None))


def test_a_folder_without_the_entry_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"holds no process\.sbatch\.j2"):
        Templates(tmp_path)


# --- what comes out ---


def test_the_digest_of_a_script_is_that_of_its_text(templates: Templates) -> None:
    script = templates.render(CONTEXT)
    assert script.sha256 == hashlib.sha256(script.text.encode()).hexdigest()


def test_a_script_names_version_process_and_template(templates: Templates) -> None:
    head = templates.render(CONTEXT).text.split("\nset -euo", 1)[0]
    assert f"slurmbridge 0.1.0, Process {'0' * 26}" in head
    assert f"template {'1' * 64}" in head


def test_without_account_and_partition_slurm_chooses(templates: Templates) -> None:
    text = templates.render(dataclasses.replace(CONTEXT, account=None, partition=None)).text
    assert "--account" not in text
    assert "--partition" not in text


def test_html_escapes_nothing(templates: Templates) -> None:
    text = templates.render(dataclasses.replace(CONTEXT, image_path="/i/a&b<c>.sif")).text
    assert "9<'/i/a&b<c>.sif'" in text


hostile = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    st.sampled_from(
        ["\ntouch here\n", "'\ntouch here\n'", "$(touch here)", "`touch here`", '"; touch here; "',
         "#SBATCH --account=x\n", "a\n#SBATCH --account=x", "\\\ntouch here", "{{ 7 * 7 }}"]
    ),
)  # fmt: skip


@settings(deadline=None, max_examples=50)
@given(hostile, hostile, hostile, hostile)
def test_no_value_adds_a_line_that_runs(
    context: str, image: str, helpers: str, argument: str
) -> None:
    templates = shipped_templates()

    def put(one: str, two: str, three: str, four: str) -> ScriptContext:
        return dataclasses.replace(
            CONTEXT, context=one, image_path=two, helper_folder=three, seal=(four,)
        )

    marks = ("a b", "c d", "e f", "g h")
    values = (context, image, helpers, argument)
    parts = re.split("('a b'|'c d'|'e f'|'g h')", templates.render(put(*marks)).text)
    pairs = zip(marks, values, strict=True)
    in_place = {f"'{mark}'": quote(value) for mark, value in pairs}
    # Each value stands in the script as one quoted word, and the rest is as it was.
    assert set(parts[1::2]) == set(in_place)
    assert templates.render(put(*values)).text == "".join(
        in_place.get(part, part) for part in parts
    )


@settings(deadline=None, max_examples=25)
@given(hostile)
def test_bash_reads_a_quoted_value_as_the_one_word_that_it_was(value: str) -> None:
    script = f"printf '%s\\0' {quote(value)}"
    out = subprocess.run(["/bin/bash", "-c", script], capture_output=True, check=True).stdout
    assert out == value.encode() + b"\0"


def test_a_list_is_written_with_a_nul_after_each_item() -> None:
    assert words(["a", "", "b\nc", "ü"]) == b"a\0\0b\nc\0\xc3\xbc\0"
    assert words([]) == b""


# --- digest ---


def copied(tmp_path: Path) -> Path:
    folder = tmp_path / "templates"
    shutil.copytree(DEFAULT_TEMPLATES, folder)
    return folder


def test_the_template_that_examines_nodes_has_a_digest_of_its_own(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    before = Templates(folder)
    (folder / DOCTOR).write_text("#!/bin/bash\n")
    assert Templates(folder).digest == before.digest == digest(DEFAULT_TEMPLATES)
    assert before.doctor_digest != Templates(DEFAULT_TEMPLATES).doctor_digest
    (folder / DOCTOR).unlink()
    with pytest.raises(ConfigurationError, match=r"holds no doctor\.sbatch\.j2"):
        assert before.doctor_digest


@pytest.mark.parametrize("path", OF_PROCESSES, ids=lambda path: path.name)
def test_any_byte_of_any_template_changes_the_digest(path: Path, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    assert digest(folder) == digest(DEFAULT_TEMPLATES)
    changed = folder / path.relative_to(DEFAULT_TEMPLATES)
    data = bytearray(changed.read_bytes())
    data[-1] ^= 1
    changed.write_bytes(data)
    assert digest(folder) != digest(DEFAULT_TEMPLATES)


@pytest.mark.parametrize("path", OF_PROCESSES, ids=lambda path: path.name)
def test_any_name_of_any_template_changes_the_digest(path: Path, tmp_path: Path) -> None:
    folder = copied(tmp_path)
    changed = folder / path.relative_to(DEFAULT_TEMPLATES)
    changed.rename(changed.with_name(f"x{changed.name}"))
    assert digest(folder) != digest(DEFAULT_TEMPLATES)


def test_a_template_more_changes_the_digest(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    (folder / "parts/more.j2").write_text("")
    assert digest(folder) != digest(DEFAULT_TEMPLATES)


def test_two_contents_that_change_places_change_the_digest(tmp_path: Path) -> None:
    folder = copied(tmp_path)
    one, other = folder / "parts/claim.j2", folder / "parts/epilog.j2"
    text = one.read_text()
    one.write_text(other.read_text())
    other.write_text(text)
    assert digest(folder) != digest(DEFAULT_TEMPLATES)
