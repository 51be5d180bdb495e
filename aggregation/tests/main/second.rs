//! A second implementation, in C, gets the same bits.

use super::case::{Case, id, moved, numbers, policy, spec};
use flair_aggregation::kernel::{float::Float, sum};
use flair_aggregation::memory::Model;
use flair_aggregation::{Base, Carried};
use flair_tensors::dtype::DType;
use flair_tensors::role::Role;
use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::{env, fs, thread};

/// The rules that the program knows, by its numbers.
const RULES: [&str; 4] = ["fedbuff", "fedavg", "median", "trimmed-mean"];
/// The digest of all that it says.
const SAID: &str = "182c1be025594e7a164ab4c22d6184b9bf3b1a868c8711e9201a5b9ac57f7bf7";

/// Compiles the program: with the compiler that the build needs anyway, or, to run it as another processor does, with
/// the one that `FLAIR_ORACLE_CC` names and by the command in `FLAIR_ORACLE_RUN`.
fn program() -> Command {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle.c");
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(&folder).unwrap();
    let given = |name| env::var(name).ok();
    let compiler = given("FLAIR_ORACLE_CC").or_else(|| given("CC")).unwrap_or_else(|| "cc".to_owned());
    let program = folder.join(format!("oracle-{}", compiler.replace(['/', ' '], "-")));
    let flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", source, "-lm", "-o"];
    let mut words = compiler.split_whitespace();
    let status = Command::new(words.next().unwrap()).args(words).args(flags).arg(&program).status().unwrap();
    assert!(status.success());
    let run = given("FLAIR_ORACLE_RUN").unwrap_or_default();
    let mut words = run.split_whitespace().map(OsString::from).chain([program.into_os_string()]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    command
}

/// What the program is given, and what it should answer.
fn conversation(dtype: DType, rule: &str, server: &str, elements: usize) -> (Vec<u8>, Vec<u8>) {
    let kind =
        [DType::F16, DType::BF16, DType::F32, DType::F64].iter().position(|other| *other == dtype).unwrap();
    let mut case = Case::new(
        vec![spec("w", dtype, elements, Role::Float)],
        Model::new([numbers("parent", dtype, elements)]),
    );
    let eta = if server == "adam" {
        "0.01"
    } else if rule == "fedavg" {
        "0.7"
    } else {
        "1"
    };
    let own: &[_] = match rule {
        "trimmed-mean" => &[("dishonest", "1")],
        "median" => &[],
        _ => &[("cap", "none")],
    };
    case.policy = policy(rule, &[&[("eta", eta), ("clip", "none"), ("server", server)], own].concat());
    case.every = 4;
    // Masters that are not just their models widened: their lower bits are changed.
    if dtype.size() == 2 {
        let mut widened = Vec::new();
        sum::widen_master(Float::of(dtype).unwrap(), case.parent.tensor(0).unwrap(), &mut widened);
        case.carried.insert((Carried::Master, 0), moved("master", DType::F32, &widened).into());
    }
    let old = Model::new([moved("old", dtype, case.parent.tensor(0).unwrap())]);
    for (number, (examples, staleness)) in
        [(10, 0), (333, 2), (8, 7), (1, 3), (90, 1)].into_iter().enumerate()
    {
        let name = format!("update {number}");
        let (on, base) = if staleness == 0 { ("parent", case.parent.clone()) } else { ("old", old.clone()) };
        let model = Model::new([moved(&name, dtype, base.tensor(0).unwrap())]);
        let about = case.update_on(&name, &name, Base::Aggregate(id(on)), model, base);
        (about.examples, about.staleness) = (examples, staleness);
    }
    case.updates.sort_by_key(|update| update.about.commit);

    let mut given = Vec::new();
    let rule = RULES.iter().position(|other| *other == rule).unwrap();
    for number in
        [kind, rule, usize::from(server == "adam"), 1, case.every as usize, case.updates.len(), elements]
    {
        given.extend_from_slice(&(number as u64).to_le_bytes());
    }
    given.extend_from_slice(&eta.parse::<f64>().unwrap().to_le_bytes());
    for update in &case.updates {
        given.extend_from_slice(&update.about.examples.to_le_bytes());
        given.extend_from_slice(&u64::from(update.about.staleness).to_le_bytes());
    }
    given.extend_from_slice(
        case.carried.get(&(Carried::Master, 0)).map_or(case.parent.tensor(0).unwrap(), |master| master),
    );
    for update in &case.updates {
        given.extend_from_slice(update.model.tensor(0).unwrap());
        given.extend_from_slice(update.base.tensor(0).unwrap());
    }

    let product = case.run();
    let mut expected = product.model.tensor(0).unwrap().to_vec();
    for what in Carried::ALL {
        expected.extend_from_slice(product.carried.get(&(what, 0)).map_or(&[], |carried| carried));
    }
    // Norms are listed by person there and by commit here.
    for update in &case.updates {
        let norm =
            product.outcome.persons.iter().find(|mover| mover.person == update.about.person).unwrap().norm;
        expected.extend_from_slice(&norm.to_le_bytes());
    }
    (given, expected)
}

#[test]
fn a_program_in_another_language_gets_the_same_bits() {
    let mut program = program();
    let mut all = blake3::Hasher::new();
    for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
        for (rule, server) in RULES.into_iter().flat_map(|rule| [(rule, "none"), (rule, "adam")]) {
            let sizes: &[usize] = if server == "none" { &[0, 1, 31, 4096, 300_007] } else { &[40_007] };
            for elements in sizes {
                let (given, expected) = conversation(dtype, rule, server, *elements);
                let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
                let mut input = child.stdin.take().unwrap();
                let writer = thread::spawn(move || input.write_all(&given));
                let output = child.wait_with_output().unwrap();
                writer.join().unwrap().unwrap();
                assert!(output.status.success());
                assert!(output.stdout == expected, "{dtype} {rule} {server} {elements}");
                all.update(&output.stdout);
            }
        }
    }
    // What it said, all together: the same on every processor.
    assert_eq!(all.finalize().to_hex().as_str(), SAID);
}
