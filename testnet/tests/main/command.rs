//! The command `flair-testnet`.

use std::process::Command;

#[test]
fn down_where_nothing_was_started_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["down", "status"] {
        let ran = Command::new(env!("CARGO_BIN_EXE_flair-testnet"))
            .args([command, "--dir"])
            .arg(dir.path())
            .env("NO_COLOR", "1")
            .output()
            .unwrap();
        assert!(!ran.status.success());
        // Errors are wrapped to the terminal, with a bar before each further line.
        let said = String::from_utf8(ran.stderr).unwrap().replace('│', " ");
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains("flair-testnet up"), "{said}");
    }
}

#[test]
fn containers_without_docker_are_refused_with_the_way_out_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("nodes");
    let ran = Command::new(env!("CARGO_BIN_EXE_flair-testnet"))
        .args(["up", "--containers", "--dir"])
        .arg(&place)
        // Nothing lies here.
        .env("PATH", dir.path())
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    assert!(!ran.status.success());
    let said = String::from_utf8(ran.stderr).unwrap();
    assert!(said.contains("no Docker daemon answers"), "{said}");
    assert!(!place.exists());
}
