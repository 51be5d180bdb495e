//! How a failure is told: what happened, which thing, what to do.

use std::fmt;
use std::io::IsTerminal as _;

use flair_node::api::types::Problem;
use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme};

#[derive(Debug)]
struct Failure<'a>(&'a Problem);

impl fmt::Display for Failure<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0.message)
    }
}

impl std::error::Error for Failure<'_> {}

impl Diagnostic for Failure<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.0.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }
}

/// Prints a problem on standard error: for people, or as one line of JSON.
pub(crate) fn report(problem: &Problem, json: bool) {
    #[allow(clippy::print_stderr)] // This is where the command speaks.
    {
        anstream::eprintln!("{}", text(problem, json, std::io::stderr().is_terminal()).trim_end());
    }
}

fn text(problem: &Problem, json: bool, terminal: bool) -> String {
    let plain = || {
        let help = problem.help.as_ref().map(|help| format!("\n  help: {help}")).unwrap_or_default();
        format!("error: {}{help}", problem.message)
    };
    if json {
        return serde_json::to_string(problem).unwrap_or_else(|_| plain());
    }
    if !terminal {
        return plain();
    }
    let mut out = String::new();
    let handler = GraphicalReportHandler::new_themed(GraphicalTheme::unicode()).with_wrap_lines(false);
    match handler.render_report(&mut out, &Failure(problem)) {
        Ok(()) => format!("error:{out}"),
        Err(_) => plain(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flair_node::api::types::Code;

    #[test]
    fn a_problem_says_what_happened_and_what_to_do() {
        let problem = Problem::new(Code::NotFound, "no branch `mian`").help("see `flair branch`");
        assert_eq!(text(&problem, false, false), "error: no branch `mian`\n  help: see `flair branch`");
        let shown = text(&problem, false, true);
        assert!(shown.contains("no branch `mian`") && shown.contains("see `flair branch`"), "{shown}");
        let read: Problem = serde_json::from_str(&text(&problem, true, true)).unwrap();
        assert_eq!(read.code, Code::NotFound);
    }
}
