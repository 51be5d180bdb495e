//! A second implementation, in C, gets the same bits.

use super::case::{Case, id, moved, numbers, policy, spec};
use flair_aggregation::kernel::{float::Float, sum};
use flair_aggregation::memory::Model;
use flair_aggregation::{Base, Carried};
use flair_tensors::dtype::DType;
use flair_tensors::role::Role;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::{env, fs, thread};

/// Compiles the program with the compiler that the build needs anyway.
fn program() -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle.c");
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join("oracle");
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", source, "-lm", "-o"];
    let status = Command::new(compiler).args(flags).arg(&program).status().unwrap();
    assert!(status.success());
    program
}

/// What the program is given, and what it should answer.
fn conversation(dtype: DType, rule: &str, elements: usize) -> (Vec<u8>, Vec<u8>) {
    let kind =
        [DType::F16, DType::BF16, DType::F32, DType::F64].iter().position(|other| *other == dtype).unwrap();
    let mut case = Case::new(
        vec![spec("w", dtype, elements, Role::Float)],
        Model::new([numbers("parent", dtype, elements)]),
    );
    let eta = if rule == "fedavg" { 0.7 } else { 1.0 };
    case.policy = policy(rule, &[("eta", &eta.to_string()), ("cap", "none"), ("clip", "none")]);
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
    let rule = u64::from(rule == "fedavg");
    for number in [kind as u64, rule, u64::from(case.every), case.updates.len() as u64, elements as u64] {
        given.extend_from_slice(&number.to_le_bytes());
    }
    given.extend_from_slice(&f64::to_le_bytes(eta));
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
    if let Some(master) = product.carried.get(&(Carried::Master, 0)) {
        expected.extend_from_slice(master);
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
    let program = program();
    for dtype in [DType::F16, DType::BF16, DType::F32, DType::F64] {
        for rule in ["fedbuff", "fedavg"] {
            for elements in [0, 1, 31, 4096, 300_007] {
                let (given, expected) = conversation(dtype, rule, elements);
                let mut child =
                    Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
                let mut input = child.stdin.take().unwrap();
                let writer = thread::spawn(move || input.write_all(&given));
                let output = child.wait_with_output().unwrap();
                writer.join().unwrap().unwrap();
                assert!(output.status.success());
                assert!(output.stdout == expected, "{dtype} {rule} {elements}");
            }
        }
    }
}
