//! How problems, progress and results are told, as `flair` does.

use std::io::Write as _;
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::Problem;

/// What is told, and how.
#[derive(clap::Args)]
pub struct Output {
    /// Print JSON, problems too (on standard error)
    #[arg(long)]
    pub json: bool,
    /// Print nothing but problems
    #[arg(short, long)]
    pub quiet: bool,
    /// Nothing more is told than without; `flair --verbose` passes it on
    #[arg(short, long, hide = true)]
    verbose: bool,
}

impl Output {
    /// Tells people how it gets on.
    pub fn say(&self, text: &str) {
        if !self.quiet && !self.json {
            note(text);
        }
    }

    /// Prints the result: as JSON, or in words.
    ///
    /// # Errors
    /// Standard output that can't be written to, unless its reader has gone.
    pub fn result(&self, value: &Value, words: &str) -> Result<(), Problem> {
        if self.quiet && !self.json {
            return Ok(());
        }
        let text = if self.json { value.to_string() } else { words.to_owned() };
        match writeln!(std::io::stdout().lock(), "{text}") {
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Problem::new(format!("the result can't be printed: {error}")).exit(1))
            }
            _ => Ok(()),
        }
    }
}

/// Prints a problem on standard error, for people or as one line of JSON. Gives the exit code.
pub fn problem(problem: &Problem, json: bool) -> ExitCode {
    let text = if json {
        json!({ "message": problem.message, "help": problem.help }).to_string()
    } else {
        let help = problem.help.as_ref().map(|help| format!("\n  help: {help}")).unwrap_or_default();
        format!("error: {}{help}", problem.message)
    };
    note(&text);
    ExitCode::from(problem.exit)
}

/// Writes what is only for people to standard error.
fn note(text: &str) {
    // Nobody may be left to read it.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
