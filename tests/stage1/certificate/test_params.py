"""`scrc_params.json` cannot say more than was proved, and is true of one engine and one preprocess."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binom

from stage1.artifacts import sha256_json
from stage1.certificate.budget import spent_on
from stage1.certificate.params import Chain, Evidence, ScrcParams
from stage1.certificate.risks import Risk
from stage1.certificate.stream import ERAS
from stage1.errors import ArtifactError, CertificateError


def edited(params: ScrcParams, **changes: Any) -> str:
    """The file with some values replaced, by dotted path (`rule__t0`)."""
    tree = json.loads(params.to_json())
    for path, value in changes.items():
        *parents, leaf = path.split("__")
        node: Any = tree
        for parent in parents:
            node = node[int(parent) if isinstance(node, list) else parent]
        node[leaf] = value
    return json.dumps(tree)


def loosened(params: ScrcParams) -> Iterator[dict[str, Any]]:
    """Every way to exit more than was proved by changing a value or two."""
    assert params.rule is not None
    grid = params.chains[0].grid
    proved = grid.index(params.rule.t0)
    for later in range(proved + 1, len(grid)):
        yield {"rule__t0": grid[later]}
        yield {"rule__t0": grid[later], "chains__0__tested": later + 2}
        yield {"rule__t0": grid[later], "chains__0__tested": len(grid)}
    yield {"rule__t0": math.nextafter(params.rule.t0, math.inf)}
    yield {
        "rule__t0": params.rule.t0 + 0.1,
        "chains__0__grid": [*grid[:proved], params.rule.t0 + 0.1, *grid[proved + 1 :]],
    }
    yield {"rule__t1": params.rule.t1 - 0.1}
    yield {"rule__t1": params.rule.t1 - 0.1, "chains__0__t1": params.rule.t1 - 0.1}
    yield {"rule__tau": params.rule.tau - 0.1}
    yield {"rule__tau": params.rule.tau - 0.1, "chains__0__tau": params.rule.tau - 0.1}
    yield {"evidence": []}
    yield {"evidence__0__p_value": params.delta}
    yield {"evidence__0__p_value": 0.5}
    yield {"evidence__0__level": params.delta}
    yield {"evidence__0__bound": params.alpha / 2}
    yield {"evidence__0__events": 0}
    yield {"evidence__0__trials": 10_000}
    yield {"alpha": params.alpha / 2}
    yield {"delta": params.delta / 2}
    yield {"spent": params.delta}
    yield {"prior_uses": 7}
    yield {"spent_before": 0.0999}
    yield {"looks": 1}
    yield {"spending": "single_use"}
    yield {"tolerance": 1e-6}
    yield {"mode": "coverage"}
    yield {"algorithm": "A"}
    yield {"multiplicity": "holm"}
    yield {"unit": "row"}
    yield {"risks": {}}
    yield {"risks__D2__events": 0}
    yield {"status": "INFEASIBLE"}
    yield {"seal": ""}
    yield {"seal": "0" * 64}
    yield {"binding__engine_sha256": "f" * 64}
    yield {"stream": "originals"}
    yield {"stream_weights__challenges-2026-01": 9.0}
    yield {"schema_version": 2}


class TestTheVersionBefore:
    """A bundle that serves has a certificate without the fields of this version; it goes on serving."""

    FIELDS = ("spending", "looks", "spent_before", "tolerance", "stream", "stream_weights", "seal")

    def written(self, certificate: Callable[..., ScrcParams], **changes: Any) -> dict[str, Any]:
        made = certificate(spending="nights").model_dump(mode="json", exclude={*self.FIELDS})
        old = made | {"schema_version": 2} | changes
        return old | {"seal": sha256_json(old)}

    def test_is_read_with_its_rule_and_what_it_spent(self, certificate: Callable[..., ScrcParams]) -> None:
        params = ScrcParams.model_validate_json(json.dumps(self.written(certificate)))
        assert params.rule == certificate(spending="nights").rule
        assert (params.spending, params.spent, params.schema_version) == ("nights", spent_on(0.1, 0), 3)
        assert params.stream == "originals"
        again = ScrcParams.model_validate_json(params.to_json())
        assert again == params

    def test_of_a_single_use_stays_one(self, certificate: Callable[..., ScrcParams]) -> None:
        old = self.written(certificate, spent=0.1)
        assert ScrcParams.model_validate_json(json.dumps(old)).spending == "single_use"

    def test_that_was_edited_is_refused(self, certificate: Callable[..., ScrcParams]) -> None:
        old = self.written(certificate)
        with pytest.raises(ValueError, match="the seal is broken"):
            ScrcParams.model_validate_json(json.dumps(old | {"alpha": 0.04}))

    @pytest.mark.parametrize("later", [{"stream": "mixture"}, {"stream": "originals"}, {"tolerance": 1e-3}])
    def test_that_has_what_it_could_not_have_is_refused(
        self, certificate: Callable[..., ScrcParams], later: dict[str, Any]
    ) -> None:
        with pytest.raises(ValueError, match=f"a file of schema_version 2 has {next(iter(later))}: it was edited"):
            ScrcParams.model_validate_json(json.dumps(self.written(certificate, **later)))

    def test_that_spent_more_than_its_uses_left_is_refused(self, certificate: Callable[..., ScrcParams]) -> None:
        with pytest.raises(ValueError, match=r"of a delta of 0\.1 is spent after 3 uses"):
            ScrcParams.model_validate_json(json.dumps(self.written(certificate, prior_uses=3)))


class TestGateScore:
    def test_a_file_that_names_no_gate_is_one_of_the_selection_score_and_its_seal_holds(
        self, certificate: Callable[..., ScrcParams]
    ) -> None:
        made = certificate(gate="select_score")
        assert b"gate_score" not in made.to_json()
        found = ScrcParams.model_validate_json(made.to_json())
        assert found == made
        assert found.rule is not None
        assert (found.gate_score, found.rule.gate_score) == ("select_score", "select_score")

    def test_the_margin_is_named_in_fields_and_words(self, certificate: Callable[..., ScrcParams]) -> None:
        made = certificate(gate="margin")
        assert made.rule is not None
        assert (made.rule.tau, made.rule.gate_score, made.gate_score) == (0.0, "margin", "margin")
        assert "with two classes tau adds nothing to t0 and t1, and is 0" in made.statement
        assert ScrcParams.model_validate_json(made.to_json()) == made
        assert "tau adds nothing" not in certificate(gate="select_score").statement

    def test_a_rule_of_another_gate_is_refused(self, certificate: Callable[..., ScrcParams]) -> None:
        made = certificate(gate="margin")
        fields = made.model_dump(exclude={"seal"}) | {"gate_score": "select_score"}
        with pytest.raises(ValueError, match="the gate of the rule asks margin, the certificate is of select_score"):
            ScrcParams.model_validate(fields)

    def test_what_is_infeasible_says_what_tells_ambiguous(self, certificate: Callable[..., ScrcParams]) -> None:
        assert certificate(gate="margin", feasible=False).gate_score == "margin"


class TestCertificate:
    def test_survives_the_disk(self, tmp_path: Path, certificate: Callable[..., ScrcParams]) -> None:
        for name, params in (("yes", certificate()), ("no", certificate(feasible=False))):
            params.write(tmp_path / name)
            assert ScrcParams.read(tmp_path / name) == params

    def test_cannot_be_loosened_by_hand(self, tmp_path: Path, certificate: Callable[..., ScrcParams]) -> None:
        params, path = certificate(), tmp_path / "scrc_params.json"
        path.write_text(edited(params))
        assert ScrcParams.read(path) == params
        for changes in loosened(params):
            path.write_text(edited(params, **changes))
            with pytest.raises(ArtifactError):
                ScrcParams.read(path)

    def test_knows_where_a_walk_can_have_ended(self) -> None:
        """If the last step was the last value, its number alone does not tell whether it passed; the seal does."""
        grid = (1.0, 2.0, 3.0)
        ends = [{t0 for t0 in grid if Chain(tau=0, t1=9, grid=grid, tested=n).may_end_at(t0)} for n in range(4)]
        assert ends == [set(), set(), {1.0}, {2.0, 3.0}]

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"status": "CERTIFIED"}, "status is CERTIFIED but the rule is missing"),
            ({"rule": {"tau": 0.0, "t0": 1.0, "t1": 2.0}}, "status is INFEASIBLE but the rule is present"),
            ({"status": "CERTIFIED", "rule": {"tau": 0.0, "t0": 1.0, "t1": 2.0}}, "the rule comes from chain 0 of 0"),
        ],
    )
    def test_of_nothing_cannot_become_one_of_something(
        self, certificate: Callable[..., ScrcParams], change: dict[str, Any], problem: str
    ) -> None:
        with pytest.raises(ValueError, match=problem):
            ScrcParams.model_validate_json(edited(certificate(feasible=False), **change))

    @pytest.mark.parametrize(
        ("changes", "problem"),
        [
            ({"chains__0__tested": 1}, "is not where a walk of 1 steps over this grid stops"),
            ({"chosen": 4}, "the rule comes from chain 4 of 1"),
            ({"evidence__0__level": 0.0999}, "a claim was tested at level 0.0999, 0.0166667 is granted"),
            ({"evidence__0__risk": "D1"}, "the evidence that D2 is at most 0.05 is missing"),
            ({"risks__D2__trials": 900}, "the count of D2 is not that of the evidence"),
            ({"spent": 0.2}, "0.2 of a delta of 0.1 is spent after 0 uses"),
            ({"spending": "nights"}, "of a delta of 0.1 is spent after 0 uses"),
            ({"spent_before": 0.09}, "0.09 of a delta of 0.1 was spent before: nothing is left"),
            ({"risks__D2__upper": 1e-6}, "a bound is not that of its counts"),
            ({"bound_delta": 0.4}, "a bound is not that of its counts"),
            ({"mode": "coverage"}, "0.0166667|evidence of the exit coverage is missing|is granted"),
            ({"mode": "balanced"}, "the evidence of a subgroup is missing"),
        ],
    )
    def test_is_refused_where_the_proof_does_not_fit_even_if_it_were_sealed(
        self, certificate: Callable[..., ScrcParams], changes: dict[str, Any], problem: str
    ) -> None:
        """A program that forgot a factor would seal what it computed: the proof is checked apart from the seal."""
        tree = json.loads(edited(certificate(), **changes)) | {"seal": ""}
        with pytest.raises(ValueError, match=problem):
            ScrcParams.model_validate(tree)

    def test_of_another_scipy_is_read(self, certificate: Callable[..., ScrcParams]) -> None:
        """Of the bounds of scipy 1.14.1 and 1.17.1 one in five differs in the last bits."""
        params = certificate()
        rate = params.risks[Risk.MISS_EXIT]
        ends = {"risks__D2__lower": math.nextafter(rate.lower, 1), "risks__D2__upper": rate.upper * (1 - 4e-15)}
        assert rate.lower > 0
        again = ScrcParams.model_validate(json.loads(edited(params, **ends)) | {"seal": ""})
        assert again.rule == params.rule
        with pytest.raises(ValueError, match="a bound is not that of its counts"):
            ScrcParams.model_validate(
                json.loads(edited(params, risks__D2__upper=rate.upper * (1 - 1e-6))) | {"seal": ""}
            )

    def test_evidence_is_recomputed_from_its_counts(self) -> None:
        proof = Evidence.of(Risk.MISS_EXIT, (3, 400), bound=0.02, level=0.1)
        assert proof.holds
        assert not Evidence.of(Risk.MISS_EXIT, (3, 300), bound=0.02, level=0.1).holds
        with pytest.raises(ValueError, match=r"but 2 of 400 give"):
            Evidence.model_validate(proof.model_dump() | {"events": 2})
        with pytest.raises(ValueError, match="a claim of coverage about D2"):
            Evidence.model_validate(proof.model_dump() | {"claim": "coverage"})

    def test_evidence_of_coverage_is_the_upper_tail(self) -> None:
        proof = Evidence.of(None, (850, 1000), bound=0.8, level=0.05)
        assert proof.p_value == pytest.approx(binom.sf(849, 1000, 0.8), rel=1e-9)

    def test_thresholds_are_in_order(self, certificate: Callable[..., ScrcParams]) -> None:
        with pytest.raises(ValueError, match="is above t1"):
            ScrcParams.model_validate_json(edited(certificate(), rule__t1=-99.0))

    def test_is_true_of_one_engine_and_one_preprocess(self, certificate: Callable[..., ScrcParams]) -> None:
        params = certificate()
        params.check_binding(engine_sha256="e" * 64, preprocess_sha256="p" * 64)
        with pytest.raises(CertificateError, match=r"is for engine e{12}, this is x{12}: calibrate again"):
            params.check_binding(engine_sha256="x" * 64, preprocess_sha256="p" * 64)
        with pytest.raises(CertificateError, match=r"is for preprocess p{12}, this is x{12}: calibrate again"):
            params.check_binding(engine_sha256="e" * 64, preprocess_sha256="x" * 64)


class TestStream:
    def test_a_certificate_names_the_stream_that_it_is_for(self, certificate: Callable[..., ScrcParams]) -> None:
        for params in (certificate(), certificate(feasible=False)):
            assert (params.schema_version, params.stream) == (3, "mixture")
            assert params.stream_weights == dict.fromkeys(ERAS, 1.0)
        words = certificate().statement
        assert (
            "It is true of pictures as validators sent them, as JPEG of quality 75 (stream mixture: 33% as in" in words
        )
        assert all(era in words for era in ERAS)

    @pytest.mark.parametrize("version", [1, 4])
    def test_other_versions_are_refused(self, certificate: Callable[..., ScrcParams], version: int) -> None:
        with pytest.raises(ValueError, match=f"schema_version is {version}, this program reads 3"):
            ScrcParams.model_validate_json(edited(certificate(), schema_version=version))
