//! The promise that no command holds a model in memory: each runs with far less than the model's size.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use flair_tensors::dtype::DType;
use flair_tensors::header::Header;
use tempfile::TempDir;

/// What a command may take, in KiB: heap, stacks and everything else of its own (`RLIMIT_DATA`).
const ALLOWED: u64 = 96 << 10;
/// Bytes of the model's one large tensor.
const LARGE: u64 = 320 << 20;

/// Runs a command with that little, and gives what it prints.
fn flair(top: &Path, arguments: &[&str]) -> String {
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -d {ALLOWED} && exec \"$@\""))
        .arg("sh")
        .arg(env!("CARGO_BIN_EXE_flair"))
        .args(arguments)
        .current_dir(top.join("work"))
        .env("FLAIR_HOME", top.join("home"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Whether two files are the same, read side by side.
fn same(a: &Path, b: &Path) -> bool {
    Command::new("cmp").arg(a).arg(b).status().unwrap().success()
}

#[test]
fn a_model_several_times_larger_than_memory_goes_all_ways() {
    let top = TempDir::new().unwrap();
    let work = top.path().join("work");
    fs::create_dir(&work).unwrap();
    let model = work.join("model.safetensors");
    // Mostly a hole, so that the disk is spared too: what is read of it is zeros.
    let shapes: [(&str, DType, &[u64]); 2] =
        [("embed.weight", DType::F32, &[LARGE / 4096, 1024]), ("head.weight", DType::F32, &[1024, 1024])];
    let header = Header::build(shapes, &std::collections::BTreeMap::new()).unwrap();
    let start = header.len() as u64;
    let mut file = File::options().read(true).write(true).create_new(true).open(&model).unwrap();
    file.write_all(&header).unwrap();
    file.set_len(start + LARGE + (4 << 20)).unwrap();
    flair(top.path(), &["init", "model.safetensors", "--name", "large"]);
    assert!(fs::metadata(&model).unwrap().len() > 3 * (ALLOWED << 10));

    // Numbers all over both tensors.
    for at in (0..LARGE + (4 << 20)).step_by(1 << 20) {
        file.write_all_at(&0.5_f32.to_le_bytes(), start + at).unwrap();
    }
    drop(file);
    let copy = top.path().join("trained");
    fs::copy(&model, &copy).unwrap();
    let diff = flair(top.path(), &["diff"]);
    assert!(diff.contains("2 tensors differ"), "{diff}");
    flair(top.path(), &["commit", "-m", "trained", "--examples", "500"]);
    let out = top.path().join("out.safetensors");
    flair(top.path(), &["export", "main", "-o", out.to_str().unwrap()]);
    assert!(!same(&out, &copy), "the branch has what was there before");
    fs::remove_file(&out).unwrap();
    fs::remove_file(&model).unwrap();
    flair(top.path(), &["restore"]);
    assert!(same(&model, &copy));
    flair(top.path(), &["push"]);
    flair(top.path(), &["aggregate", "--flush"]);
    flair(top.path(), &["pull"]);
    assert!(same(&model, &copy), "alone, one's update is the aggregate");
    File::options()
        .write(true)
        .open(&model)
        .unwrap()
        .write_all_at(&0.75_f32.to_le_bytes(), start + LARGE / 2)
        .unwrap();
    flair(top.path(), &["commit", "-m", "private", "--dp", "clip=1,noise=1"]);
    assert!(!same(&model, &copy), "the folder holds the noised model");
    let checked = flair(top.path(), &["fsck"]);
    assert!(checked.contains("all is well"), "{checked}");
}
