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
