//! `flair-testnet bench`, with a model that is small enough for every test run.

use std::process::Command;

#[test]
fn the_benchmark_measures_every_step_and_the_reader_gets_what_the_author_made() {
    let ran = Command::new(env!("CARGO_BIN_EXE_flair-testnet"))
        .args(["bench", "--pushes", "2", "--layers", "1", "--vocabulary", "400", "--json"])
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    let median = |what: &str| report["latency"][what]["median"].as_f64().unwrap();
    assert!(median("answered") > 0.0 && median("visible") > 0.0);
    assert!(median("visible") <= median("checked") && median("checked") <= median("verified"));

    let model = report["model"].as_u64().unwrap();
    let steps = report["steps"].as_array().unwrap();
    let step = |name: &str| steps.iter().find(|step| step["name"] == name).unwrap();
    for step in steps {
        for of in ["command", "author", "reader"] {
            assert!(step[of]["peak"].as_u64().unwrap() > 1 << 20, "{step}");
        }
    }
    // What is new costs, what is known does not.
    let received = |name: &str| step(name)["received"].as_u64().unwrap();
    let push = |version: u32| received(&format!("push v{version}, until the reader has run it"));
    assert!(received("clone v1") > model / 2, "{report}");
    assert!(push(2) > 0 && push(2) < push(3) && push(3) < model, "{report}");
    assert_eq!(received("pull v2"), 0);
}

#[test]
fn versions_from_a_folder_are_measured_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let bench = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flair-testnet"));
        let ran = command.args(["bench", "--json"]).args(arguments).env("NO_COLOR", "1").output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        ran.stdout
    };
    let path = folder.path().to_str().unwrap();
    bench(&["--layers", "1", "--vocabulary", "300", "--write", path]);
    let model = std::fs::metadata(folder.path().join("v1.safetensors")).unwrap().len();
    let report: serde_json::Value = serde_json::from_slice(&bench(&["--versions", path])).unwrap();
    assert_eq!(report["model"].as_u64(), Some(model));
    assert!(report["latency"].is_null());
    assert_eq!(report["steps"].as_array().unwrap().len(), 8, "{report}");
}
