//! What `flair evaluate` is to run for `flair eval`: an entry in `.flair/config.toml`, which never leaves.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use tempfile::Builder;
use toml::{Table, Value};

use crate::Problem;
use crate::measure::{Loss, Measured};
use crate::problem::at;

/// Longest settings that are read, in bytes.
const LONGEST: u64 = 1 << 20;

/// A set of data, and with what it is measured.
#[derive(Debug)]
pub struct Set<'a> {
    /// What this person calls it.
    pub name: &'a str,
    /// The TorchScript module.
    pub module: &'a Path,
    /// The file.
    pub data: &'a Path,
    /// Its tensor of inputs.
    pub inputs: &'a str,
    /// Its tensor of targets.
    pub targets: &'a str,
    /// Examples in a batch.
    pub batch: i64,
    /// What is measured.
    pub loss: Loss,
}

/// Adds the set to the settings of the working folder at `root`. Gives their file, if they were changed: a set that is there
/// and says the same is left alone.
///
/// # Errors
/// Another set of this name; settings that can't be read.
pub fn write(root: &Path, set: &Set<'_>, measured: &Measured) -> Result<Option<PathBuf>, Problem> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if set.name.is_empty() || !set.name.bytes().all(plain) {
        return Err(Problem::new(format!(
            "{:?} is no name for data: use letters, digits, - and _",
            set.name
        )));
    }
    let path = root.join(".flair").join("config.toml");
    let mut text = match fs::metadata(&path) {
        Ok(about) if about.len() > LONGEST => return Err(Problem::file(&path, "this is too long")),
        Ok(_) => fs::read_to_string(&path).map_err(at(&path))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Problem::file(&path, error)),
    };
    let read: Table = text.parse().map_err(at(&path))?;
    let entry = entry(set, measured)?;
    let there = read.get("evaluate").and_then(|sets| sets.get(set.name));
    if there == Some(&Value::Table(entry.clone())) {
        return Ok(None);
    }
    if there.is_some() {
        let why = format!("[evaluate.{}] is there already, and says something else", set.name);
        return Err(Problem::file(&path, why)
            .help("evaluate with `flair evaluate`, choose another name with --on, or remove the entry"));
    }
    let sets = Table::from_iter([(
        "evaluate".to_owned(),
        Value::Table(Table::from_iter([(set.name.to_owned(), Value::Table(entry))])),
    )]);
    if !text.is_empty() {
        text.push_str(if text.ends_with('\n') { "\n" } else { "\n\n" });
    }
    text.push_str(&toml::to_string(&sets).map_err(at(&path))?);
    // An `evaluate = {…}` on one line can't be added to.
    text.parse::<Table>().map_err(at(&path))?;
    let folder = root.join(".flair");
    let mut out = Builder::new().prefix("config-").tempfile_in(&folder).map_err(at(&folder))?;
    out.write_all(text.as_bytes()).and_then(|()| out.as_file().sync_all()).map_err(at(&path))?;
    out.persist(&path).map_err(at(&path))?;
    Ok(Some(path))
}

fn entry(set: &Set<'_>, measured: &Measured) -> Result<Table, Problem> {
    let absolute = |path: &Path| -> Result<String, Problem> {
        let full = path.canonicalize().map_err(at(path))?;
        full.to_str().map(str::to_owned).ok_or_else(|| Problem::file(path, "the name is not UTF-8"))
    };
    let own = std::env::current_exe().map_err(at("flair-eval"))?;
    let (own, module, data) = (absolute(&own)?, absolute(set.module)?, absolute(set.data)?);
    let command = format!(
        "{} --json --module {} --data {} --inputs {} --targets {} --batch-size {} --loss {} --model {{model}}",
        quoted(&own),
        quoted(&module),
        quoted(&data),
        quoted(set.inputs),
        quoted(set.targets),
        set.batch,
        set.loss.name(),
    );
    let text = |text: &str| Value::String(text.to_owned());
    let mut better = Table::from_iter([("loss".to_owned(), text("lower"))]);
    for (name, value) in [("accuracy", measured.accuracy), ("auc", measured.auc)] {
        if value.is_some() {
            better.insert(name.to_owned(), text("higher"));
        }
    }
    Ok(Table::from_iter([
        ("command".to_owned(), Value::String(command)),
        ("data".to_owned(), Value::String(data)),
        ("code".to_owned(), Value::String(module)),
        ("better".to_owned(), Value::Table(better)),
    ]))
}

/// As one word of a shell.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_written_once_beside_what_is_there_and_never_over_another() {
        let top = tempfile::tempdir().unwrap();
        let file = top.path().join("it's.ts");
        fs::write(&file, "1").unwrap();
        fs::create_dir(top.path().join(".flair")).unwrap();
        let config = top.path().join(".flair/config.toml");
        fs::write(&config, "# mine\n[privacy]\nrequire = false").unwrap();
        let measured = Measured { loss: 0.5, accuracy: Some(0.5), auc: None, n: 2 };
        let set = |name, batch| Set {
            name,
            module: &file,
            data: &file,
            inputs: "inputs",
            targets: "targets",
            batch,
            loss: Loss::CrossEntropy,
        };
        assert_eq!(write(top.path(), &set("holdout", 8), &measured).unwrap(), Some(config.clone()));
        let text = fs::read_to_string(&config).unwrap();
        assert!(text.starts_with("# mine\n[privacy]\nrequire = false\n"), "{text}");
        let read: Table = text.parse().unwrap();
        let written = &read["evaluate"]["holdout"];
        assert!(written["command"].as_str().unwrap().contains("it'\\''s.ts' --inputs 'inputs'"), "{text}");
        assert_eq!(written["better"].as_table().unwrap().len(), 2);
        assert_eq!(write(top.path(), &set("holdout", 8), &measured).unwrap(), None);
        assert!(
            write(top.path(), &set("holdout", 9), &measured)
                .unwrap_err()
                .message
                .contains("[evaluate.holdout]")
        );
        assert!(write(top.path(), &set("other", 9), &measured).unwrap().is_some());
        assert!(write(top.path(), &set("a b", 9), &measured).is_err());
        fs::write(&config, "evaluate = {}\n").unwrap();
        assert!(write(top.path(), &set("holdout", 8), &measured).is_err());
        assert_eq!(fs::read_to_string(&config).unwrap(), "evaluate = {}\n");
    }
}
