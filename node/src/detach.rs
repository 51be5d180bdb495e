//! Starting a node in the background.

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use flair_node::api::types::Problem;

/// Runs this very command again in the background, without `--detach`, and returns once it is ready.
pub(super) fn detach(home: &Path) -> Result<(), Problem> {
    let logs = home.join("logs");
    fs::create_dir_all(&logs).map_err(Problem::internal)?;
    let path = logs.join("node.log");
    let log = OpenOptions::new().create(true).append(true).open(&path).map_err(Problem::internal)?;
    let program = std::env::current_exe().map_err(Problem::internal)?;
    let mut child = Command::new(program)
        .args(std::env::args_os().skip(1).filter(|argument| argument != "--detach"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        // Not ended with the terminal that started it.
        .process_group(0)
        .spawn()
        .map_err(Problem::internal)?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out).read_line(&mut line).map_err(Problem::internal)?;
    }
    if line.starts_with("ready ") {
        return super::say(line.trim_end());
    }
    let status = child.wait().map_err(Problem::internal)?;
    Err(Problem::offline(format!("the node did not start ({status})"))
        .help(format!("{} says why", path.display())))
}
