//! Refusals around virtual functions and claimed devices.

use serde_json::{Value, json};

use super::refused::check;

const INTERFACES: &str = "/spec/domain/devices/interfaces";
const FIRST: &str = "/spec/domain/devices/interfaces/0";

#[test]
fn sriov_is_off_the_pod_network() {
    check(
        &[(FIRST, json!({"name": "default", "sriov": {}}))],
        &["interfaces[0].sriov: not on the pod network: a VF is of a Multus network or of a resource claim"],
    );
}

#[test]
fn resource_claims() {
    let claims = |networks: Value, claims: Value, expected: &[&str]| {
        let interfaces = json!([{"name": "a", "sriov": {}}, {"name": "b", "sriov": {}}]);
        check(
            &[
                (INTERFACES, interfaces),
                ("/spec/networks", networks),
                ("/spec/resourceClaims", claims),
            ],
            expected,
        );
    };
    let of = |claim: &str, request: &str| json!({"claimName": claim, "requestName": request});
    let template = || json!([{"name": "nets", "resourceClaimTemplateName": "vfs"}]);
    claims(
        json!([{"name": "a", "resourceClaim": of("nets", "x")}, {"name": "b", "resourceClaim": of("nets", "x")}]),
        template(),
        &["spec.networks[1].resourceClaim: the same as that of networks[0]"],
    );
    claims(
        json!([{"name": "a", "resourceClaim": of("nets", "x")}, {"name": "b", "multus": {"networkName": "n"}}]),
        template(),
        &["spec.networks[0].resourceClaim: not together with Multus, which networks[1] is of"],
    );
    claims(
        json!([{"name": "a", "resourceClaim": of("", "../x")}, {"name": "b", "resourceClaim": of("other", "y")}]),
        template(),
        &[
            "spec.networks[0].resourceClaim.claimName: required",
            "spec.networks[0].resourceClaim.requestName: expected a DNS name in lower case, found \"../x\"",
            "spec.networks[1].resourceClaim.claimName: no entry of spec.resourceClaims is named \"other\"",
        ],
    );
    let networks = || json!([{"name": "a", "resourceClaim": of("nets", "x")}, {"name": "b", "resourceClaim": of("nets", "y")}]);
    claims(
        networks(),
        json!([{"name": "nets", "resourceClaimName": "a/b"}]),
        &["spec.resourceClaims[0].resourceClaimName: expected a DNS name in lower case, found \"a/b\""; 2],
    );
    claims(
        networks(),
        json!([{"name": "nets"}]),
        &["spec.resourceClaims[0]: expected exactly one of resourceClaimName and resourceClaimTemplateName";
            2],
    );
    check(
        &[
            (FIRST, json!({"name": "default", "bridge": {}})),
            (
                "/spec/networks/0",
                json!({"name": "default", "resourceClaim": of("nets", "x")}),
            ),
            ("/spec/resourceClaims", template()),
        ],
        &["interfaces[0].bridge: not on a claimed device: only sriov or a binding plugin"],
    );
}
