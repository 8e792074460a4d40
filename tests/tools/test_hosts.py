"""Other versions of ComfyUI: where they are kept, and what is said of the tests on them."""

import pytest

from tools import cache, hosts, install

REPORT = """<testsuites>
<testsuite name="pytest" errors="1" failures="2" skipped="3" tests="10" time="1.0"></testsuite>
</testsuites>"""


def test_each_version_has_a_directory_of_its_own_that_follows_the_one_it_leans_on():
    others = [version for version in install.SDISTS if install.SDISTS[version] != install.SDIST]
    recipes = [install.other_host_recipe(version, shared) for version in others for shared in ("a", "b")]
    assert len({cache.directory_name("comfyui", recipe) for recipe in recipes}) == 2 * len(others) == 6


def test_an_unknown_version_is_answered_with_those_there_are():
    with pytest.raises(RuntimeError, match=r"'0\.1'.*0\.18\.2, 0\.24\.0, 0\.27\.0, 0\.30\.0"):
        hosts.provision_version("0.1")


def test_errors_count_as_failures(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(REPORT, encoding="utf-8")
    assert hosts.counts(report) == (4, 3, 3)


def test_the_table_tells_a_failure_from_tests_that_never_ran():
    results = [hosts.Result("0.18.2", 4, 0, 3, 0, 90.0), hosts.Result("0.24.0", 0, 0, 0, 4, 6.0)]
    assert hosts.table(results).splitlines() == [
        "ComfyUI     passed  failed  skipped  minutes  pytest",
        "0.18.2           4       0        3      1.5  ok",
        "0.24.0           0       0        0      0.1  ended with status 4",
    ]


def test_the_pack_asks_for_the_oldest_version_that_is_tested():
    oldest = min(install.SDISTS, key=lambda version: [int(part) for part in version.split(".")])
    assert f'requires-comfyui = ">={oldest}"' in (hosts.CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
