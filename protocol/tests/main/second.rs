//! A second evaluator (`tests/second`), in another language and written from the document alone, agrees.

use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;
use std::{env, thread};

use data_encoding::HEXLOWER;
use flair_protocol::id::Digest;
use flair_protocol::key::PersonId;
use flair_protocol::policy::Role;
use flair_protocol::state::{Branch, CommitInfo, State};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::order::{cases, history, play};

/// The interpreter that has blake3: `make tools` puts it there.
fn python() -> PathBuf {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin/python3");
    match env::var_os("FLAIR_PYTHON") {
        Some(named) => named.into(),
        None if installed.exists() => installed,
        None => "python3".into(),
    }
}

/// The other program, which answers one history after the other.
struct Second {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Second {
    fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/second/evaluator.py");
        let mut process = Command::new(python())
            .arg("-B")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("python3 is needed, `make tools` installs it: {error}"));
        let questions = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Self { process, questions, answers }
    }

    /// What it makes of a history.
    fn verdict(&mut self, operations: &[Vec<u8>]) -> Vec<String> {
        let mut question = u32::try_from(operations.len()).unwrap().to_le_bytes().to_vec();
        for operation in operations {
            question.extend(u32::try_from(operation.len()).unwrap().to_le_bytes());
            question.extend(operation);
        }
        self.questions.write_all(&question).expect("the second evaluator ended: see what it says above");
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let read = self.answers.read_line(&mut line).unwrap();
            assert!(
                read > 0,
                "the second evaluator ended: see what it says above (`make tools` installs blake3)"
            );
            match line.trim_end() {
                "" => return lines,
                fact => lines.push(fact.to_owned()),
            }
        }
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _status = self.process.wait();
    }
}

fn joined<T: Display>(ids: impl IntoIterator<Item = T>) -> String {
    ids.into_iter().fold(String::new(), |all, id| format!("{all} {id}"))
}

fn name(person: PersonId) -> Digest {
    Digest::from_bytes(*person.as_bytes())
}

/// The verdict of this crate, as the other program writes it.
fn verdict(state: &State) -> Vec<String> {
    let mut lines = vec![
        format!("chain{}", joined(&state.chain)),
        format!("frozen{}", joined(&state.frozen)),
        format!("void{}", joined(state.void.keys())),
        format!("idle{}", joined(state.idle.keys())),
        format!("above{}", joined(&state.above)),
    ];
    let id = |id: Option<_>| id.map_or("none".to_owned(), |id| format!("{id}"));
    for (person, member) in &state.members {
        let (granted, revoked) = (id(member.granted), id(member.revoked));
        let said = format!("{} {granted} {revoked} {}", role(member.role), member.name);
        lines.push(format!("member {} {}", name(*person), said.trim_end()));
    }
    state.branches.values().for_each(|branch| lines.extend(facts_of_branch(branch)));
    state.commits.iter().for_each(|(id, info)| lines.extend(facts_of_commit(id, info)));
    for fork in &state.equivocations {
        lines.push(format!("equivocation {} {}{}", name(fork.author), fork.seq, joined(fork.operations)));
    }
    lines.push(format!("fingerprint {}", state.fingerprint()));
    lines
}

/// A role as the format writes it.
fn role(role: Role) -> String {
    format!("{role:?}").to_lowercase()
}

fn facts_of_branch(branch: &Branch) -> Vec<String> {
    vec![
        format!("branch {} {}{}", branch.id, branch.name, if branch.deleted { " deleted" } else { "" }),
        format!("  path{}", joined(&branch.path)),
        format!("  pending{}", joined(&branch.pending)),
        format!("  waiting{}", joined(&branch.waiting)),
        format!("  dropped{}", joined(branch.dropped.iter().map(|(id, _)| id))),
        format!("  proposed{}", joined(&branch.proposed)),
    ]
}

fn facts_of_commit(id: impl Display, info: &CommitInfo) -> Vec<String> {
    let effective = info.publications.iter().filter(|one| one.effect.is_full()).map(|one| one.operation);
    let result = info.result.map_or(" none".to_owned(), |one| format!(" {} {}", one.model, one.state));
    let skipped = if info.skipped { " skipped" } else { "" };
    vec![format!("commit {id}{}", joined(effective)), format!("  result{result}{skipped}")]
}

/// What of one verdict is not in another.
fn only(here: &[String], there: &[String]) -> String {
    let lines = here.iter().filter(|line| !there.contains(line));
    lines.fold(String::new(), |all, line| all + "\n    " + line)
}

/// Plays histories until one is judged differently, and then looks for the shortest such.
fn compare(histories: u32) {
    let second = Mutex::new(Second::start());
    let config = ProptestConfig { cases: histories, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&history(), |steps| {
        let all = play(&steps);
        let encoded: Vec<_> = all.operations().iter().map(|one| one.encode().unwrap()).collect();
        let state = all.state();
        let (own, other) = (verdict(&state), second.lock().unwrap().verdict(&encoded));
        let (here, there) = (only(&own, &other), only(&other, &own));
        let why = (&state.void, &state.idle);
        prop_assert!(
            own == other,
            "only here:{here}\n  only in Python:{there}\n  void and idle here: {why:?}"
        );
        Ok(())
    });
    if let Err(difference) = outcome {
        panic!("{difference}");
    }
}

#[test]
fn an_evaluator_written_from_the_document_agrees() {
    // The other program has one thread; with two of them both cores work.
    const AT_ONCE: u32 = 2;
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| compare(cases(10_000).div_ceil(AT_ONCE)));
        }
    });
}

/// The test vectors hold a small history, an invite and its fingerprint.
#[test]
fn it_has_the_published_fingerprint() {
    let vectors = include_str!("../../../docs/vectors.txt");
    let value = |wanted: &str| {
        let line = vectors.lines().find_map(|line| line.strip_prefix(wanted)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no vector is called {wanted}"))
    };
    let operation = |name| HEXLOWER.decode(value(name).as_bytes()).unwrap();
    let history = ["genesis", "branch", "update", "aggregate", "invite"].map(operation);
    let facts = Second::start().verdict(&history);
    assert_eq!(facts.last(), Some(&format!("fingerprint {}", value("fingerprint"))), "{facts:#?}");
}
